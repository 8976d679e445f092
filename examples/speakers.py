"""Who is speaking? One mixture for each of eight voices; an utterance goes to the voice that makes it most probable.

    weights         ~ Dirichlet(1, ..., 1)
    means[k, d]     ~ Normal(0, 2)                                   the cepstra are standardised: mean 0, sd 1
    variances[k, d] ~ InverseGamma(2, .5)
    z[t]            ~ Categorical(weights)                           a component stands for a sound, more or less
    x[t, d]         ~ Normal(means[z[t], d], sqrt(variances[z[t], d]))

x[t] are twelve mel cepstra of frame t, 25 ms of speech: the features, and the model, of text-independent speaker
identification as Reynolds & Rose 1995 (IEEE Transactions on Speech and Audio Processing 3) have it. Each speaker's
mixture is fitted to ten utterances of a second; EM finds the posterior mode, where it stays. Ten others are to be
identified. The voices are synthetic: voices.py has the recipe, voices.npz the cepstra.

Run `python examples/speakers.py`; the picture is out/examples/speakers.png.
"""

import hashlib
import pathlib

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from genjax import categorical, dirichlet, gen, inverse_gamma, mv_normal_diag, normal
from matplotlib.figure import Figure
from voices import FILE, SHA256

from diagnostics import prediction, saved, to_arviz
from diagnostics.pictures import STYLE
from inference import fit
from zoo import Mixture

K, D = 8, 12  # components of a voice, cepstra
NUM_TRAINED = 10  # utterances of each speaker that the mixtures are fitted to; the others are to be identified


@gen
def prior():
    weights = dirichlet(np.ones(K)) @ "weights"
    means = normal(np.zeros((K, D)), 2.0) @ "means"
    variances = inverse_gamma(np.full((K, D), 2.0), 0.5) @ "variances"  # (shape, scale)
    return {"weights": weights, "means": means, "scales": jnp.sqrt(variances)}


@gen
def observation(params):
    z = categorical(probs=params["weights"]) @ "z"  # named: a bare argument means logits
    return mv_normal_diag(params["means"][z], params["scales"][z]) @ "x"


voice = Mixture(name="voice", num_components=K, exchangeable=True, prior=prior, observation=observation)


def recorded():
    """Utterances to learn from and to identify, each (speakers, utterances, frames, cepstra), standardised."""
    if hashlib.sha256(FILE.read_bytes()).hexdigest() != SHA256:
        raise ValueError(f"{FILE.name} has changed: its SHA-256 is not the one that voices.py records")
    x = np.load(FILE)["hundredths"] / 100.0
    known, unknown = x[:, :NUM_TRAINED], x[:, NUM_TRAINED:]
    mean, sd = known.mean(axis=(0, 1, 2)), known.std(axis=(0, 1, 2))
    return (known - mean) / sd, (unknown - mean) / sd


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    known, unknown = recorded()
    num_speakers, num_unknown, num_frames, _ = unknown.shape

    scores = []  # log p(utterance | speaker's training data), frames taken as independent
    for frames in known.reshape(num_speakers, -1, D):
        found = fit(voice, "em", x=frames, seed=1, num_restarts=4)
        posterior = saved.of_data(to_arviz(found, voice, frames, backend="em"), voice)
        density = prediction.log_predictive(posterior, unknown.reshape(-1, D)).value
        scores.append(density.reshape(num_speakers, num_unknown, num_frames).sum(axis=2))
    named = np.argmax(scores, axis=0)  # (speakers, utterances)

    spoken = np.arange(num_speakers)[:, None]
    right = int((named == spoken).sum())
    share = right / named.size
    error = np.sqrt(share * (1 - share) / named.size)
    print(f"utterances: {named.size} of {num_speakers} speakers, {num_frames} frames each")
    print(f"identified: {right} = {share:.1%} ± {error:.1%} (chance: {1 / num_speakers:.1%})")

    confusion = np.array([[(named[i] == j).sum() for j in range(num_speakers)] for i in range(num_speakers)])
    matplotlib.rcParams.update(STYLE)
    figure = Figure(figsize=(5.6, 5.0), layout="constrained")
    axis = figure.subplots()
    image = axis.imshow(confusion, cmap="Blues", vmin=0, vmax=num_unknown)
    for (i, j), count in np.ndenumerate(confusion):
        if count:
            axis.text(j, i, count, ha="center", va="center", color="white" if 2 * count > num_unknown else "black")
    names = [f"voice {i + 1}" for i in range(num_speakers)]
    axis.set_xticks(range(num_speakers), names, rotation=45, ha="right")
    axis.set_yticks(range(num_speakers), names)
    axis.set_xlabel("who is named")
    axis.set_ylabel("who speaks")
    figure.colorbar(image, shrink=0.8, label=f"utterances, of {num_unknown} by each speaker")
    figure.suptitle(f"{right} of {named.size} utterances go to the voice that spoke them", fontweight="bold")
    out = pathlib.Path("out/examples")
    out.mkdir(parents=True, exist_ok=True)
    figure.savefig(out / "speakers.png", dpi=150)
