"""Train ``tiny``, a small latent diffusion model: its first edition; CPU or GPU.

    python tools/train_tiny_backbone.py --out runs/tiny --steps 8000
    python tools/train_tiny_backbone.py --out runs/tiny --export diffqa_features/tiny

Training resumes from the last checkpoint in ``--out``. A new run in another folder goes
on from an exported model with ``--start diffqa_features/tiny --seed 1``. Everything it
sees is drawn by ``diffqa_features.datasets``: no photograph enters.

The objective is noise prediction under a caption, plus a *caption ranking* term: of two
captions for the same picture, noise and timestep, the truer one must predict the noise
better (binary cross-entropy on the log ratio of the two errors). A few million
parameters and two CPU hours do not learn to read captions from noise prediction alone.
"""

import json
import logging
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from _captions import caption, corpus, name
from _training_run import TrainingRun, load_average, run_parser, train_or_export
from torch.nn import functional as F
from tqdm import tqdm

from diffqa_features.datasets._distortions import BASIC, distort
from diffqa_features.datasets._procedural import make_procedural_images

log = logging.getLogger("train_tiny_backbone")

LATENT_CHANNELS, PATCH, WIDTH, TOKENS = 32, 4, 64, 24
CLEAN_SIZE = 224
RANKING_WEIGHT, RANKING_SLOPE = 0.1, 30.0


def main():
    parser = run_parser(__doc__.splitlines()[0], steps=8000, lr=6e-4, seed=0, every=250)
    parser.add_argument("--images", type=int, default=8, help="pictures a step")
    parser.add_argument("--crop", type=int, default=64, help="pixels a side")
    parser.add_argument("--pool", type=int, default=3000, help="clean pictures drawn")
    parser.add_argument("--start", type=Path, help="exported model to begin with")
    train_or_export(parser.parse_args(), train, export)


# -- data ------------------------------------------------------------------------------


def clean_pool(out, count, seed):
    """Draw the clean pictures once, in two processes, and keep them on disk."""
    path = out / f"clean-{seed}-{count}.npy"
    if not path.exists():
        log.info("drawing %d clean pictures", count)
        chunk = 50
        seeds = [seed * 100_000 + i for i in range(0, count, chunk)]
        with ProcessPoolExecutor() as workers:
            parts = list(tqdm(workers.map(_draw, seeds), total=len(seeds)))
        np.save(path, np.concatenate(parts)[:count])
    return np.load(path, mmap_mode="r")


def _draw(seed):
    return np.stack(
        make_procedural_images(50, image_size=CLEAN_SIZE, random_state=seed)
    )


def sample(pool, crop, rng):
    """One training example: crop, two captions, and how true the first one is."""
    source = pool[rng.integers(len(pool))]
    y, x = rng.integers(0, CLEAN_SIZE - crop - 8, 2)
    clean = np.ascontiguousarray(source[y : y + crop + 8, x : x + crop + 8])
    if rng.random() < 0.5:
        clean = clean[:, ::-1].copy()
    family, impairment, image = None, 0.0, clean
    if rng.random() < 0.85:
        family = str(rng.choice(list(BASIC)))
        severity = rng.random()
        impairment = 0.25 + 0.75 * severity
        image = distort(clean, family, severity, rng)
    others = [f for f in BASIC if f != family]
    other = None if family and rng.random() < 0.4 else str(rng.choice(others))
    other_impairment = rng.uniform(0.25, 1) if other else 0.0
    form = rng.random()
    if form < 0.08:
        captions, truth = ("", ""), 0.5
    elif form < 0.5:
        captions, truth = ("good photo.", "bad photo."), 1 - impairment
    elif form < 0.75 or family is None:
        captions = (
            caption(family, impairment, rng),
            caption(other, other_impairment, rng),
        )
        truth = 1.0
    else:
        # Two qualities in one picture: words pay off where they belong.
        soft = _half_plane(image.shape[0], rng)[..., None]
        image = np.rint(soft * image + (1 - soft) * clean).astype(np.uint8)
        both = [name(family, impairment, rng), name(None, 0, rng)]
        wrong = [name(other, other_impairment, rng), name(None, 0, rng)]
        captions = (f"{both[0]} and {both[1]} photo.", f"{wrong[0]} photo.")
        truth = 1.0
    dy, dx = rng.integers(0, 9, 2)
    return image[dy : dy + crop, dx : dx + crop], captions, truth


def _half_plane(size, rng):
    angle, offset = rng.uniform(0, 2 * np.pi), rng.uniform(-0.3, 0.3)
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    return np.clip((x * np.cos(angle) + y * np.sin(angle) - offset) * 20 + 0.5, 0, 1)


def to_pixels(images):
    x = torch.from_numpy(np.ascontiguousarray(np.stack(images)))
    return x.permute(0, 3, 1, 2).float() / 127.5 - 1


# -- model -----------------------------------------------------------------------------


def build(seed, tokenizer):
    from diffusers import AutoencoderTiny, DDPMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(seed)
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            projection_dim=WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    channels = (32, 64, 96, 128)
    unet = UNet2DConditionModel(
        sample_size=48,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=channels,
        layers_per_block=2,
        cross_attention_dim=WIDTH,
        attention_head_dim=tuple(c // 16 for c in channels),  # heads, as SD has it
        norm_num_groups=8,
        use_linear_projection=True,
        # Self-attention over 2,304 tokens would take most of the time.
        only_cross_attention=(True, True, False, False),
    )
    vae = AutoencoderTiny(
        latent_channels=LATENT_CHANNELS,
        encoder_block_out_channels=(48, 48, 48),
        decoder_block_out_channels=(48, 48, 48),
        num_encoder_blocks=(0, 0, 0),
        num_decoder_blocks=(1, 1, 1),
        scaling_factor=1.0,
    )
    vae.encoder.requires_grad_(False)
    scheduler = DDPMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        steps_offset=1,
    )
    return text, unet, vae, scheduler


def run_tokenizer(out, begin=None):
    """The tokenizer of a run, made once: merges of equal count fall in any order."""
    from transformers import CLIPTokenizer

    folder = out / "tokenizer"
    if not folder.exists():
        given = begin and CLIPTokenizer.from_pretrained(begin / "tokenizer")
        (given or build_tokenizer()).save_pretrained(folder)
    return CLIPTokenizer.from_pretrained(folder)


def build_tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    raw = Tokenizer(models.BPE(unk_token="<|endoftext|>", end_of_word_suffix="</w>"))
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Punctuation(), pre_tokenizers.WhitespaceSplit()]
    )
    raw.train_from_iterator(
        corpus(),
        trainers.BpeTrainer(
            vocab_size=2000, end_of_word_suffix="</w>", min_frequency=2
        ),
    )
    merges = json.loads(raw.to_str())["model"]["merges"]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    symbols = letters + [s + "</w>" for s in letters]
    symbols += ["".join(pair) for pair in merges]
    symbols += ["<|startoftext|>", "<|endoftext|>"]
    vocab = {s: i for i, s in enumerate(dict.fromkeys(symbols))}
    return CLIPTokenizer(
        vocab=vocab,
        merges=[tuple(pair) for pair in merges],
        model_max_length=TOKENS,
    )


@torch.no_grad()
def set_linear_encoder(layers, pool):
    """Write a soft-whitened PCA of 4 x 4 patches into the encoder's convolutions.

    Two strided convolutions move 2 x 2 neighbours into channels, the last one projects.
    It is exact, needs no training, and keeps the high frequencies distortions live in.
    """
    expand, first, second, project = layers
    for layer in layers:
        layer.weight.zero_()
        if layer.bias is not None:
            layer.bias.zero_()
    for c in range(3):
        expand.weight[c, c, 1, 1] = 1
    for layer, width in ((first, 3), (second, 12)):
        for c in range(width):
            for k in range(4):
                layer.weight[4 * c + k, c, 1 + k // 2, 1 + k % 2] = 1
    patches = to_pixels(list(pool[:600])).add(1).div(2)
    x = second(first(expand(patches)))
    x = x.permute(0, 2, 3, 1).reshape(-1, 48).double()
    mean = x.mean(0)
    values, vectors = torch.linalg.eigh(torch.cov(x.T))
    values, vectors = values.flip(0), vectors.flip(1)
    values, vectors = values[:LATENT_CHANNELS], vectors[:, :LATENT_CHANNELS]
    # A floor under the variance: rare detail is not blown up to unit size.
    scale = (values + 0.002).rsqrt()
    matrix = (vectors * scale).T
    project.weight[:, :, 1, 1] = matrix.float()
    project.bias.copy_(-(matrix @ mean).float())
    log.info("latent std: %s", (values.sqrt() * scale).numpy().round(2))


# -- training --------------------------------------------------------------------------


def train(args):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    pool = clean_pool(args.out, args.pool, args.seed)
    tokenizer = run_tokenizer(args.out, args.start)
    text, unet, vae, scheduler = build(args.seed, tokenizer)
    model = torch.nn.ModuleDict({"text": text, "unet": unet, "vae": vae})
    if args.start:
        start(model, args.start)
    else:
        set_linear_encoder(vae.encoder.layers, pool)
    model.to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), args.lr, (0.9, 0.99))
    run = TrainingRun(model, optimizer, args.out, clip=1.0, decay=0.999, lag=20)
    alphas = scheduler.alphas_cumprod.to(device)
    with run.progress(args.steps) as progress:
        while run.step < args.steps:
            losses = loss_of(
                run.step, args, pool, tokenizer, text, unet, vae, alphas, device
            )
            run.learn(losses, args.lr * schedule(run.step, args.steps), progress)
            if run.step % args.checkpoint_every == 0 or run.step == args.steps:
                run.save()


def start(model, folder):
    """Take the weights of an exported model."""
    from diffusers import AutoencoderTiny, UNet2DConditionModel
    from transformers import CLIPTextModel

    parts = (
        ("text", CLIPTextModel, "text_encoder"),
        ("unet", UNet2DConditionModel, "unet"),
        ("vae", AutoencoderTiny, "vae"),
    )
    for part, kind, subfolder in parts:
        loaded = kind.from_pretrained(folder / subfolder, torch_dtype=torch.float32)
        model[part].load_state_dict(loaded.state_dict())


def schedule(step, steps, decay=0.3):
    """Warm up, stay, and decay linearly over the last share of the steps."""
    return min((step + 1) / 200, 1.0, max(steps - step, 1) / (decay * steps))


def loss_of(step, args, pool, tokenizer, text, unet, vae, alphas, device):
    rng = np.random.default_rng([args.seed, step])
    images, captions, truth = zip(
        *(sample(pool, args.crop, rng) for _ in range(args.images)), strict=True
    )
    pixels = to_pixels(images).to(device)
    generator = torch.Generator().manual_seed(args.seed * 1_000_003 + step)
    # Small timesteps matter most for quality: they are drawn more often.
    u = torch.rand(args.images, generator=generator)
    t = (1000 * u**3).long().clamp_(1, 999).to(device)
    with torch.no_grad():
        latents = vae.encode(pixels).latents
    noise = torch.randn(latents.shape, generator=generator).to(device)
    a = alphas[t].view(-1, 1, 1, 1)
    noisy = a.sqrt() * latents + (1 - a).sqrt() * noise
    tokens = tokenizer(
        [c[0] for c in captions] + [c[1] for c in captions],
        padding="max_length",
        max_length=TOKENS,
        truncation=True,
        return_tensors="pt",
    ).input_ids.to(device)
    states = text(tokens).last_hidden_state
    predicted = unet(noisy.repeat(2, 1, 1, 1), t.repeat(2), states).sample
    first, second = (
        (predicted - noise.repeat(2, 1, 1, 1)).square().mean((1, 2, 3)).chunk(2)
    )
    truth = torch.tensor(truth, device=device, dtype=torch.float32)
    logit = RANKING_SLOPE * (second.log() - first.log())
    losses = {
        "noise": (truth * first + (1 - truth) * second).mean(),
        "ranking": RANKING_WEIGHT * F.binary_cross_entropy_with_logits(logit, truth),
    }
    if step % 4 == 0:  # the decoder learns beside, from an encoder that stays
        losses["decoder"] = F.l1_loss(vae.decode(latents).sample, pixels)
    return losses


def export(out, folder):
    """Write the averaged weights as an ordinary diffusers folder in float16."""
    from diffusers import StableDiffusionPipeline

    average, step = load_average(out)
    tokenizer = run_tokenizer(out)
    text, unet, vae, scheduler = build(0, tokenizer)
    model = torch.nn.ModuleDict({"text": text, "unet": unet, "vae": vae})
    model.load_state_dict(average)
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.to(torch.float16).save_pretrained(folder)
    size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) / 2**20
    log.info("step %d, %.1f MiB in %s", step, size, folder)


if __name__ == "__main__":
    main()
