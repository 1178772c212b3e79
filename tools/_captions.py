"""What the training pictures are called: quality and distortion words."""

GRADES = ("excellent", "good", "fair", "poor", "bad")

WORDS = {
    "gaussian_blur": ("blurred", "blurry", "unsharp"),
    "lens_blur": ("out of focus", "blurred", "blurry"),
    "motion_blur": ("motion blurred", "shaken", "blurred"),
    "white_noise": ("noisy", "grainy"),
    "color_noise": ("noisy", "color noise"),
    "impulse_noise": ("speckled", "noisy"),
    "jpeg": ("compressed", "blocky", "jpeg artifacts"),
    "jpeg2000": ("compressed", "smeared", "ringing"),
    "pixelate": ("pixelated", "low resolution"),
    "quantise": ("posterized", "banded"),
    "oversharpen": ("oversharpened", "halos"),
    "low_contrast": ("flat", "low contrast", "hazy"),
    "brighten": ("overexposed", "too bright"),
    "darken": ("underexposed", "too dark"),
    "desaturate": ("pale", "faded colors"),
    "oversaturate": ("oversaturated", "garish"),
}
CLEAN = ("sharp", "clean", "crisp", "detailed", "sharp and clean", "natural")
STRENGTH = ("slightly ", "", "strongly ")


def caption(family, impairment, rng):
    """One of many true descriptions of a picture.

    ``family`` is ``None`` for a clean picture; ``impairment`` runs from 0 (clean) to 1.
    """
    word = name(family, impairment, rng)
    grade = GRADES[round(4 * min(max(impairment + rng.normal(0, 0.08), 0), 1))]
    form = rng.integers(5)
    if form == 0:
        return f"{grade} photo."
    if form == 1:
        return f"{grade} photo, {word}."
    if form == 2:
        return f"a {word} photo."
    if form == 3:
        return f"{word} photo, {grade} quality."
    return f"{word}."


def name(family, impairment, rng):
    """The distortion's name with its strength, or a word for a clean picture."""
    if family is None:
        return str(rng.choice(CLEAN))
    strength = STRENGTH[min(int(impairment * 3), 2)] if rng.random() < 0.5 else ""
    return strength + str(rng.choice(WORDS[family]))


def corpus():
    """Every word that a caption may hold, for the tokenizer."""
    words = [w for group in WORDS.values() for w in group]
    text = [*words, *CLEAN, *STRENGTH, *GRADES, "a photo of an image picture quality"]
    extra = "high low very not with and the in frame video scene people sky tree"
    return [f"{t} photo. {t}, {t}" for t in text] + [extra] * 3
