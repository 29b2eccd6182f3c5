"""The transformer at the size of the built-in model."""

import pytest
import torch
from torch import Tensor

from wan.checkpoint.components import is_fp32_param
from wan.configs import WAN_CONFIGS
from wan.modules import gelu, norms, rope, speaker_labels
from wan.modules.rope import video_rope
from wan.modules.speaker_labels import token_masks
from wan.modules.transformer import Context, MultiTalkTransformer

CONFIG = WAN_CONFIGS["multitalk-puppet"].transformer
GRID = (2, 4, 6)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def model() -> MultiTalkTransformer:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MultiTalkTransformer(CONFIG).eval().requires_grad_(False)


def run(model: MultiTalkTransformer, persons: int, batch: int = 1) -> Tensor:
    """A forward on fixed inputs that differ between batch items."""

    def items(*shape: int) -> Tensor:
        return torch.stack([draw(*shape, seed=i) for i in range(batch)])

    masks = torch.zeros(batch, 3, 8, 12)
    masks[:, 0, :, :4], masks[:, 1, :, 8:], masks[:, 2, :, 4:8] = 1, 1, 1
    context = Context(
        text=model.embed_text(items(7, CONFIG.text_dim)),
        image=model.embed_image(items(CONFIG.image_tokens, CONFIG.image_dim)),
        speech=model.embed_speech(items(persons, 5, CONFIG.audio_window, CONFIG.audio_layers, CONFIG.audio_dim)),
        masks=token_masks(masks, *GRID[1:]) if persons == 2 else None,
    )
    time = model.embed_time(torch.tensor([700.0, 300.0, 100.0])[:batch])
    rotary_emb = video_rope(GRID, CONFIG.head_dim, "cpu")
    return model(items(16, 2, 8, 12), items(20, 2, 8, 12), time, rotary_emb, context)


def rounded(model: MultiTalkTransformer) -> MultiTalkTransformer:
    """A copy in bfloat16, except the parameters that stay in float32."""
    low = MultiTalkTransformer(CONFIG).eval().requires_grad_(False)
    state = {name: tensor if is_fp32_param(name) else tensor.bfloat16() for name, tensor in model.state_dict().items()}
    low.load_state_dict(state, assign=True)
    return low


@pytest.mark.parametrize("persons", [1, 2])
def test_a_batch_matches_its_items(model: MultiTalkTransformer, persons: int) -> None:
    batch_result = run(model, persons, batch=3)
    assert batch_result.shape == (3, 16, 2, 8, 12)
    torch.testing.assert_close(batch_result[:1], run(model, persons), atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_fused_operations_run_in_one_dtype(model: MultiTalkTransformer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pipeline verifies the kernels for one dtype only."""
    dtypes: set[torch.dtype] = set()
    for module in (norms, gelu, speaker_labels, rope):
        monkeypatch.setattr(module, "use_triton", lambda x: dtypes.add(x.dtype))
    run(rounded(model), persons=2)
    assert dtypes == {torch.bfloat16}


@pytest.mark.parametrize("persons", [1, 2])
def test_bfloat16_with_float32_parameters_is_close_to_float32(model: MultiTalkTransformer, persons: int) -> None:
    expected, result = run(model, persons), run(rounded(model), persons)
    assert result.dtype == torch.float32
    assert (result - expected).norm() / expected.norm() < 2e-2


def test_gradients_reach_every_parameter(model: MultiTalkTransformer) -> None:
    trainable = MultiTalkTransformer(CONFIG)
    run(trainable, 2).square().mean().backward()
    no_grad = [name for name, parameter in trainable.named_parameters() if parameter.grad is None]
    assert no_grad == []


def test_too_many_persons_or_tokens_are_errors(model: MultiTalkTransformer) -> None:
    with pytest.raises(ValueError, match="3 speaking persons"):
        model.embed_speech(torch.zeros(1, 3, 5, 5, 4, 64))
    with pytest.raises(ValueError, match="129 tokens; at most 128"):
        model.embed_text(torch.zeros(1, 129, 64))
