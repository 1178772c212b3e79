"""`DiffusionQAFeatures`: columns and kinds against plain diffusers calls."""

import pickle
import re

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from random_models import write_model
from scipy.special import logsumexp
from sklearn.base import clone
from transformers import CLIPTextModel, CLIPTokenizer

from diffqa_features import DiffusionQAFeatures, FeatureStore, PromptAlignmentMaps
from diffqa_features._engine.passes import Passes, draw_noise

SIZE, T = 64, 60
PROMPTS = ("Good photo.", "Bad photo.", "a cat")


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(3).integers(0, 256, (SIZE, SIZE, 3), np.uint8)


@pytest.fixture(scope="module")
def plain(sd2_folder, image):
    """The same picture by hand: diffusers' pipeline parts, module hooks, no library."""
    unet = UNet2DConditionModel.from_pretrained(sd2_folder / "unet").eval()
    vae = AutoencoderKL.from_pretrained(sd2_folder / "vae").eval()
    text = CLIPTextModel.from_pretrained(sd2_folder / "text_encoder").eval()
    tokenizer = CLIPTokenizer.from_pretrained(sd2_folder / "tokenizer")
    schedule = DDPMScheduler.from_pretrained(sd2_folder / "scheduler")
    assert schedule.config.prediction_type == "v_prediction"
    seen = {}
    for name, module in unet.named_modules():
        module.register_forward_hook(
            lambda m, args, output, name=name: seen.__setitem__(name, output)
        )
    with torch.no_grad():
        pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 127.5 - 1
        latents = vae.encode(pixels).latent_dist.mode() * vae.config.scaling_factor
        noise = draw_noise(0, T, latents.shape[1:])
        noise = noise[None]
        t = torch.tensor([T])
        noisy = schedule.add_noise(latents, noise, t)
        tokens = tokenizer(
            list(PROMPTS),
            padding="max_length",
            max_length=tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        states = text(tokens.input_ids).last_hidden_state
        rows = noisy.expand(len(PROMPTS), -1, -1, -1)
        velocity = unet(rows, T, encoder_hidden_states=states).sample
        alpha = schedule.alphas_cumprod[T]
        predicted = alpha.sqrt() * velocity + (1 - alpha).sqrt() * rows
    return {"seen": seen, "noise": noise, "predicted": predicted, "unet": unet}


def table(sd2_folder, image, **parameters):
    features = DiffusionQAFeatures(
        str(sd2_folder),
        timesteps=T,
        prompts=PROMPTS,
        image_size=SIZE,
        device="cpu",
        dtype="float32",
        **parameters,
    )
    row = features.transform([image])[0]
    return dict(zip(features.get_feature_names_out(), row, strict=True))


def test_error(plain, sd2_folder, image):
    columns = table(sd2_folder, image, kinds="error")
    error = (plain["predicted"] - plain["noise"]).double().numpy()
    for k in range(3):
        spectrum = np.log(np.sqrt((error[k] ** 2).mean(axis=(1, 2))))
        for c, value in enumerate(spectrum):
            name = f"t{T}__error__prompt{k}__{c:04d}"
            assert columns[name] == pytest.approx(value, abs=1e-4)
    total = np.sqrt((error**2).mean(axis=(1, 2, 3)))
    assert columns[f"t{T}__error__prompt0-prompt1"] == pytest.approx(
        total[0] - total[1], abs=1e-5
    )
    assert len(columns) == 3 * len(error[0]) + 1


def attention_path(unet, block):
    level, index = block.split(".")
    part = {"d": "down_blocks", "u": "up_blocks"}.get(block[0])
    prefix = f"{part}.{level[-1]}" if part else "mid_block"
    return f"{prefix}.attentions.{index}.transformer_blocks.0.attn2"


def test_alignment(plain, sd2_folder, image):
    columns = table(sd2_folder, image, kinds="alignment")
    for block in ("down0.0", "mid.0", "up3.1"):
        path = attention_path(plain["unet"], block)
        heads = plain["unet"].get_submodule(path).heads
        q, k = (plain["seen"][f"{path}.{n}"].numpy() for n in ("to_q", "to_k"))
        d = q.shape[-1] // heads
        for prompt in range(3):
            values = [
                logsumexp(
                    0.14
                    * q[prompt][:, h * d : h * d + d]
                    @ k[prompt][:, h * d : h * d + d].T
                    / np.sqrt(d),
                    axis=0,
                )
                / 0.14
                for h in range(heads)
            ]
            name = f"t{T}__{block}__alignment__prompt{prompt}"
            assert columns[name] == pytest.approx(np.mean(values), rel=1e-5)


@pytest.mark.parametrize("statistic", ["mean", "std", "max"])
def test_query_attended_and_hidden(plain, sd2_folder, image, statistic):
    columns = table(
        sd2_folder,
        image,
        kinds=("query", "attended", "hidden"),
        pooling=statistic,
        blocks=["down1.0", "mid.0", "up2.1", "up0"],
    )
    pool = getattr(np, statistic)
    for block in ("down1.0", "mid.0", "up2.1"):
        path = attention_path(plain["unet"], block)
        queries = pool(plain["seen"][f"{path}.to_q"].numpy(), axis=1)
        attended = pool(plain["seen"][path].numpy(), axis=1)
        for c in (0, queries.shape[1] - 1):
            value = columns[f"t{T}__{block}__query__{statistic}__{c:04d}"]
            assert value == pytest.approx(queries[:, c].mean(), abs=1e-5)
            for k in range(3):
                name = f"t{T}__{block}__attended__prompt{k}__{statistic}__{c:04d}"
                assert columns[name] == pytest.approx(attended[k, c], abs=1e-5)
    stages = {"down1": "down_blocks.1", "mid": "mid_block", "up0": "up_blocks.0"}
    for stage, path in stages.items():
        output = plain["seen"][path]
        hidden = output[0] if isinstance(output, tuple) else output
        pooled = pool(hidden.numpy(), axis=(2, 3)).mean(0)
        for c in (0, len(pooled) - 1):
            value = columns[f"t{T}__{stage}__hidden__{statistic}__{c:04d}"]
            assert value == pytest.approx(pooled[c], abs=1e-5)
    found = {name.split("__")[1] for name in columns if "hidden" in name}
    assert found == {"down1", "mid", "up0", "up2"}


def test_the_noise_is_seeded_by_seed_timestep_and_shape():
    noise = Passes("tiny", "cpu", "float32", seed=0).noise
    again = Passes("sd15", "cpu", "float16", seed=0).noise
    assert torch.equal(noise(5, (4, 8, 8)), again(5, (4, 8, 8)))
    assert not torch.equal(noise(5, (4, 8, 8)), noise(6, (4, 8, 8)))
    other = Passes("tiny", "cpu", "float32", seed=1).noise
    assert not torch.equal(noise(5, (4, 8, 8)), other(5, (4, 8, 8)))
    assert noise(5, (4, 64, 64)).std() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        (r"^t5__", {"t5"}),
        (r"__up1\.\d__", {"up1.0", "up1.1"}),
        (r"__alignment__prompt1$", {"alignment"}),
        (r"__query__std__", {"query"}),
        (r"__error__prompt0-prompt1$", {"error"}),
    ],
)
def test_a_regular_expression_selects_columns(sd1_folder, pattern, expected):
    features = DiffusionQAFeatures(
        str(sd1_folder),
        timesteps=(5, 50),
        kinds=("alignment", "query", "hidden", "error"),
        pooling=("mean", "std"),
    )
    names = features.get_feature_names_out()
    chosen = [name for name in names if re.search(pattern, name)]
    assert chosen
    assert all(expected & set(name.split("__")) for name in chosen)
    assert len(chosen) < len(names)


def test_metadata_says_what_each_column_is(sd1_folder):
    features = DiffusionQAFeatures(
        str(sd1_folder), prompts=("sharp", "soft"), frame_pooling=("mean", "std")
    )
    rows = features.get_feature_metadata()
    assert [row["name"] for row in rows] == list(features.get_feature_names_out())
    assert {row["prompt"] for row in rows} == {"sharp", "soft", "prompt0-prompt1"}
    assert {row["frame_statistic"] for row in rows} == {"mean", "std"}
    assert rows[0]["name"].endswith("__frames-mean")
    assert {row["timestep"] for row in rows} == {50}


@pytest.mark.parametrize("kind", ["query", "alignment", "attended"])
def test_stages_without_attention_are_refused_for_attention_kinds(sd1_folder, kind):
    features = DiffusionQAFeatures(str(sd1_folder), blocks="up0", kinds=kind)
    with pytest.raises(ValueError, match="without cross-attention"):
        features.fit()


def test_weights_that_changed_since_the_fit_are_refused(small_folder, image, tmp_path):
    """Whatever was fitted on the columns knows those of the former weights."""
    folder = write_model(tmp_path / "model", "small")
    quick = {"image_size": SIZE, "device": "cpu"}
    fitted = DiffusionQAFeatures(str(folder), **quick).fit()
    maps = PromptAlignmentMaps(str(folder), **quick).fit()
    kept = pickle.loads(pickle.dumps(fitted))
    before = kept.transform([image])
    write_model(folder, "small", seed=1)
    renamed = clone(kept).fit().set_params(backbone=str(small_folder))
    for each in (fitted, maps, kept, renamed):
        with pytest.raises(ValueError, match="not the one that it was fitted with"):
            each.transform([image])
    for each in (fitted, renamed):
        with pytest.raises(ValueError, match="not the one that it was fitted with"):
            each.get_feature_names_out()
    unfitted = DiffusionQAFeatures(str(folder), **quick).transform([image])
    np.testing.assert_array_equal(kept.fit_transform([image]), unfitted)
    assert np.abs(unfitted - before).max() > 1e-3


def test_the_default_runs_on_tiny(tmp_path):
    from diffqa_features.datasets import make_procedural_images

    images = make_procedural_images(2)
    with FeatureStore(tmp_path) as store:
        matrix = DiffusionQAFeatures(memory=store).fit_transform(images)
    assert matrix.shape == (2, 97)
    assert np.isfinite(matrix).all()
