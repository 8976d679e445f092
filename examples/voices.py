"""Synthetic voices: eight speakers, twenty utterances of a second each, as mel cepstra. Writes examples/voices.npz.

A voice is a source and a filter (Fant 1960): pulses of the larynx at the speaker's pitch, with some breath, go through
the resonances of a vocal tract, the formants. Every speaker says the same seven vowels, in random order; the formants
are those of Peterson & Barney 1952 (averages of men), divided by the length of the speaker's tract. What tells the
speakers apart is that length, the pitch, how steeply the source falls off and how much breath there is in it. Every
utterance is recorded through a line of its own: a random slope of the spectrum, and noise at 20 to 30 dB.

`python examples/voices.py` makes the file anew, from the seed below; it takes some seconds.
"""

import pathlib

import numpy as np
from scipy.fft import dct
from scipy.signal import lfilter

FILE = pathlib.Path(__file__).with_name("voices.npz")
SHA256 = "d76a8c2a83e7ead19f6f77fa0b3ce5ce3a86b90de41e03afd35e209da02c7dce"
NUM_SPEAKERS, NUM_UTTERANCES, SEED = 8, 20, 1995
RATE = 8000  # samples a second
STEP = 80  # samples in which formants and pitch stay as they are: 10 ms
WINDOW, HOP = 200, 160  # samples of a frame, 25 ms, and from one frame to the next, 20 ms
NUM_FILTERS, NUM_CEPSTRA = 20, 12
VOWELS = {  # Hz, the first three formants
    "heed": (270, 2290, 3010),
    "head": (530, 1840, 2480),
    "had": (660, 1720, 2410),
    "hod": (730, 1090, 2440),
    "hawed": (570, 840, 2410),
    "who'd": (300, 870, 2240),
    "heard": (490, 1350, 1690),
}
BANDWIDTHS = np.array([60.0, 90.0, 150.0])  # Hz


def speakers(rng):
    """The voices: pitch in Hz, length of the tract, fall-off of the source, and breath, as a share of the source.

    Each of these is spread evenly over the speakers, in an order of its own, so that no two are much alike.
    """
    spread = lambda low, high: rng.permutation(np.linspace(low, high, NUM_SPEAKERS)).tolist()
    each = zip(spread(90, 220), spread(0.8, 1.2), spread(0.6, 0.97), spread(0.02, 0.4), strict=True)
    return [dict(zip(("pitch", "tract", "fall", "breath"), one, strict=True)) for one in each]


def utterance(voice, rng):
    """A second of sound, (8000,): ten vowels that glide into each other."""
    num_steps = RATE // STEP
    said = np.array(list(VOWELS.values()), float)[rng.integers(len(VOWELS), size=10)]
    said *= rng.normal(1, 0.03, said.shape) / voice["tract"]  # nobody says a vowel twice the same way
    at = np.linspace(0, len(said) - 1, num_steps)
    formants = np.stack([np.interp(at, np.arange(len(said)), said[:, i]) for i in range(3)], axis=1)
    pitch = voice["pitch"] * np.exp(rng.normal(0, 0.05) + np.linspace(0.1, -0.1, num_steps))  # falls to the end
    phase = np.cumsum(np.repeat(pitch, STEP)) / RATE
    pulses = np.diff(np.floor(phase), prepend=0.0) * np.sqrt(RATE / np.repeat(pitch, STEP))
    source = lfilter([1.0], [1.0, -voice["fall"]], pulses + voice["breath"] * rng.standard_normal(RATE))
    sound = np.concatenate(list(filtered(source.reshape(num_steps, STEP), formants)))
    sound = lfilter([1.0, rng.uniform(-0.2, 0.2)], [1.0], sound)  # the line
    noise = 10 ** (-rng.uniform(20, 30) / 20) * sound.std()
    return sound + noise * rng.standard_normal(RATE)


def filtered(source, formants):
    """Each step of the source (T, STEP) through resonators at its formants (T, 3); what rings goes on ringing."""
    radius = np.exp(-np.pi * BANDWIDTHS / RATE)
    ringing = [np.zeros(2) for _ in radius]
    for block, centres in zip(source, formants, strict=True):
        for i, (r, centre) in enumerate(zip(radius, centres, strict=True)):
            poles = [1.0, -2 * r * np.cos(2 * np.pi * centre / RATE), r * r]
            block, ringing[i] = lfilter([sum(poles)], poles, block, zi=ringing[i])
        yield block


def cepstra(sound):
    """Mel cepstra 1 to 12 of every frame, (T, 12): the spectrum's envelope; cepstrum 0, the loudness, is left out."""
    starts = np.arange(0, len(sound) - WINDOW + 1, HOP)
    frames = sound[starts[:, None] + np.arange(WINDOW)] * np.hamming(WINDOW)
    power = np.abs(np.fft.rfft(frames, 256)) ** 2
    return dct(np.log(power @ mel_filters().T), type=2, norm="ortho", axis=1)[:, 1 : NUM_CEPSTRA + 1]


def mel_filters():
    """Triangles on the mel scale, 2595 log10(1 + f / 700), that cover 100 to 4000 Hz: (20, 129)."""
    low, high = (2595 * np.log10(1 + f / 700) for f in (100, RATE / 2))
    corners = 700 * (10 ** (np.linspace(low, high, NUM_FILTERS + 2) / 2595) - 1)
    f = np.fft.rfftfreq(256, 1 / RATE)
    left, centre, right = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    return np.clip(np.minimum((f - left) / (centre - left), (right - f) / (right - centre)), 0, None)


def features():
    """Every frame of every utterance: (speakers, utterances, frames, cepstra), int16, in hundredths."""
    rng = np.random.default_rng(SEED)
    each = [[cepstra(utterance(voice, rng)) for _ in range(NUM_UTTERANCES)] for voice in speakers(rng)]
    return np.round(100 * np.array(each)).astype(np.int16)


if __name__ == "__main__":
    np.savez_compressed(FILE, hundredths=features())
    print(f"{FILE.name}: {FILE.stat().st_size:,} bytes")
