"""MultiTalk: image, speech and prompt to video, chunk by chunk.

Shapes: C channels, F video frames, T latent frames, H x W.
"""

import logging
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from wan.checkpoint import Models, Precision, load_models
from wan.checkpoint.lora import Lora, LoraManager
from wan.chunks import Chunk, plan_chunks
from wan.conditioning.image import Crop, crop_image
from wan.conditioning.layout import ImageLayout, layout_image
from wan.conditioning.request import EmbedSpeech, Request, parse_lengths, parse_request
from wan.conditioning.speech import check_embeddings, speech_windows
from wan.configs.capabilities import check_supported, choose_devices
from wan.configs.schema import ModelConfig
from wan.decode import DecodedChunk, decode_video
from wan.modules.attention import choose_backends
from wan.modules.verify_kernels import verify
from wan.motion import CONDITIONERS, ChunkInputs, LastValueCache
from wan.offload.manager import OffloadManager, initial_plan
from wan.offload.plan import OffloadPlan
from wan.parallel import ParallelSampler, RankPool, start_ranks
from wan.progress import Progress, Reporter, make_reporter
from wan.sampling.guidance import PASSES
from wan.sampling.options import Cache, SamplingOptions, resolve_options
from wan.sampling.sampler import ChunkCondition, ChunkSampler, ClipCondition, ClipState
from wan.types import Aspect, VideoSize
from wan.video_buffer import allocate_video

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """A request with its chunks, and what the transformer needs for all of them."""

    request: Request
    options: SamplingOptions
    size: VideoSize
    chunks: list[Chunk]
    crop: Crop
    masks_3HW: Tensor
    state: ClipState


class MultiTalkPipeline:
    """The networks of MultiTalk or InfiniteTalk (`config.mode`) on one device, and the generation of a video."""

    def __init__(
        self,
        config: ModelConfig,
        checkpoint_dir: str | Path,
        device_id: int = 0,
        precision: Precision = "bf16",
        memory_limit: int | None = None,
        num_persistent_param_in_dit: int | None = None,
        num_gpus: int | None = 1,
    ) -> None:
        """Load the weights of `config` from a folder of bundles (or the base bundle) onto a GPU, or else the CPU.

        `precision` fp8 or int8 stores the large layers in eight bits; `memory_limit` caps the device's memory in bytes.
        `num_persistent_param_in_dit` is how many of the transformer's parameters may stay on the device; the blocks
        beyond it are streamed from host memory, with 0 all of them. Both None: the free memory decides. `num_gpus` GPUs
        from `device_id` on, None for all, share the work of the transformer (`wan.parallel`); without a GPU, so many
        processes on the CPU. `close` ends them.
        Raises `CheckpointError` (a ValueError), which lists absent files and missing or unknown tensors, and
        RuntimeError for a model that needs a GPU where there is none.
        """
        self.config = config
        devices = choose_devices(config, device_id, num_gpus)
        self.device = devices[0]
        plan = initial_plan(config, precision, self.device, memory_limit, num_persistent_param_in_dit)
        resident, keep_encoders = (plan.num_resident_blocks, plan.keep_encoders) if plan is not None else (None, True)
        folder = Path(checkpoint_dir)
        pool = start_ranks(config, folder, precision, devices, resident) if len(devices) > 1 else None
        try:
            self.models = load_models(config, folder, self.device, precision, resident, keep_encoders)
            self._assemble(memory_limit, num_persistent_param_in_dit, pool)
        except BaseException:
            if pool is not None:
                pool.close()
            raise

    @classmethod
    def from_models(
        cls,
        config: ModelConfig,
        models: Models,
        memory_limit: int | None = None,
        num_persistent_param_in_dit: int | None = None,
        device: torch.device | None = None,
    ) -> "MultiTalkPipeline":
        """A pipeline of loaded networks; the limits are those of the constructor.

        `device` is where the networks run, None for where the transformer is.
        """
        pipeline = cls.__new__(cls)
        pipeline.config, pipeline.models, pipeline.device = config, models, device or models.transformer.device
        pipeline._assemble(memory_limit, num_persistent_param_in_dit, None)
        return pipeline

    def _assemble(
        self, memory_limit: int | None, num_persistent_param_in_dit: int | None, pool: RankPool | None
    ) -> None:
        """What works on the loaded networks."""
        transformer = self.models.transformer
        self.offload = OffloadManager(self.config, self.models, self.device, memory_limit, num_persistent_param_in_dit)
        self.sampler = ChunkSampler(self.config, transformer, self.device)
        self.loras = LoraManager()
        self.pool = pool
        if pool is not None:
            pool.wait_until_loaded()
            place = self.offload.place_transformer
            self.offload.place_transformer = lambda count: pool.call(lambda: place(count), "apply", count)
            self.sampler = ParallelSampler(self.sampler, pool)
        verify(self.device, transformer.dtype)
        sizes = self.config.transformer
        for num_heads in {sizes.num_heads} if pool is None else pool.group.head_counts:
            choose_backends(self.device, transformer.dtype, sizes.head_dim, num_heads)

    def close(self) -> None:
        """End the processes of the other GPUs; with one GPU nothing happens."""
        if self.pool is not None:
            self.pool.close()

    def check(self) -> None:
        """Raise `RankError` if the process of another GPU has ended or does not answer."""
        if self.pool is not None:
            self.pool.check()

    def generate(
        self,
        input_data: Mapping[str, Any],
        size_buckget: str = "multitalk-480",
        motion_frame: int = 25,
        frame_num: int = 81,
        shift: float | None = None,
        sampling_steps: int = 40,
        text_guide_scale: float | None = None,
        audio_guide_scale: float | None = None,
        n_prompt: str = "",
        seed: int = -1,
        max_frames_num: int = 1000,
        color_correction_strength: float = 0.0,
        turbo: bool = True,
        teacache_thresh: float | None = None,
        use_apg: bool = False,
        apg_momentum: float = -0.75,
        apg_norm_threshold: float = 55.0,
        progress: Callable[[Progress], None] | None = None,
        embed_speech: EmbedSpeech | None = None,
        aspect: Aspect = "bucket",
        cache: Cache = "teacache",
        magcache_thresh: float | None = None,
        guidance_reuse: bool = False,
        loras: Sequence[Lora] | None = None,
    ) -> Tensor:
        """The whole video, float32 3 x F x H x W in [-1, 1] on the CPU; F = min(longest speech, max_frames_num).

        A video above 1 GiB lies in an unnamed temporary file, deleted with the tensor; `stream` keeps no video.
        The argument names, `size_buckget` included, are those of the reference implementation. `input_data`: see
        `parse_request`; audio files in it need `embed_speech`. `size_buckget`: "multitalk-480" or "multitalk-720";
        InfiniteTalk's weights also take "infinitetalk-480" and "infinitetalk-720", which are the same sizes. None is
        replaced by the value of the preset that `turbo` and the size select. InfiniteTalk was trained with a
        `motion_frame` of 9. `n_prompt`: the negative prompt; the model's own if empty. `seed` below 0 draws one and
        logs it. All others, with their ranges: see `SamplingOptions`.
        Raises ValueError for an invalid argument before any network runs, RuntimeError for NaN or Inf in the video.
        """
        family, _, size_class = str(size_buckget).partition("-")
        families = ["multitalk"] if self.config.mode == "multitalk" else ["multitalk", "infinitetalk"]
        if family not in families:
            allowed = [f"'{name}-{size}'" for name in families for size in self.config.buckets]
            raise ValueError(f"size_buckget is {size_buckget!r}; {self.config.name} has {', '.join(allowed)}")
        request = parse_request(input_data, embed_speech)
        num_frames, requested_motion_frame = parse_lengths(input_data, request.num_frames)
        options = resolve_options(
            self.config,
            size_class=size_class,
            turbo=turbo,
            motion_frame=motion_frame if requested_motion_frame is None else requested_motion_frame,
            frame_num=frame_num,
            shift=shift,
            sampling_steps=sampling_steps,
            text_guide_scale=text_guide_scale,
            audio_guide_scale=audio_guide_scale,
            negative_prompt=n_prompt,
            seed=seed,
            max_frames_num=max_frames_num if num_frames is None else min(num_frames, max_frames_num),
            color_correction_strength=color_correction_strength,
            teacache_thresh=teacache_thresh,
            use_apg=use_apg,
            apg_momentum=apg_momentum,
            apg_norm_threshold=apg_norm_threshold,
            aspect=aspect,
            cache=cache,
            magcache_thresh=magcache_thresh,
            guidance_reuse=guidance_reuse,
        )
        logger.info("seed %d", options.seed)
        layout = self.resolve_layout(request, options)
        if loras is not None:
            self.use_loras(loras)
        request = replace(request, layout=layout)
        size = chunk_size(layout, options)
        video, release = allocate_video(_num_frames(request, options), size.height, size.width)
        start = 0
        for frames in self.stream(request, options, progress):
            if not frames.isfinite().all():
                raise RuntimeError(f"the model produced NaN or Inf from frame {start} on; the video is discarded")
            video[:, start : start + frames.shape[1]] = frames
            start += frames.shape[1]
            release()
            del frames  # else it stays on the device while the next chunk is denoised
        return video

    def use_loras(self, loras: Sequence[Lora]) -> None:
        """Merge these LoRAs, in place of those merged before; an empty sequence restores the weights bit for bit.

        Raises `LoraError` (a ValueError) for a file that does not fit the transformer.
        """
        if wrong := [lora for lora in loras if not isinstance(lora, Lora)]:
            raise ValueError(f"loras holds {wrong[0]!r:.100}; objects Lora(weights=..., strength=...) are needed")
        transformer = self.models.transformer
        if self.pool is None:
            self.loras.set_active(transformer, loras)
        else:
            self.pool.call(lambda: self.loras.set_active(transformer, loras), "use_loras", tuple(loras))

    @torch.inference_mode()
    def stream(
        self,
        request: Request,
        options: SamplingOptions,
        progress: Callable[[Progress], None] | None = None,
    ) -> Generator[Tensor, None, None]:
        """Yield the video in order, at most four frames at a time, as decoded: float32 3 x F x H x W in [-1, 1].

        Slices are on the pipeline's device. Of the frames already yielded only those are kept that the next chunk is
        conditioned on. Close the iterator before the next request if it is not exhausted.
        """
        generator = torch.Generator(self.device).manual_seed(options.seed)
        layout = self.resolve_layout(request, options)
        request = replace(request, layout=layout)
        size, num_persons = chunk_size(layout, options), request.num_persons
        self.reserve_memory(options, num_persons, height=size.height, width=size.width)
        clip = self._retry_on_oom(size, num_persons, generator, self.prepare, request, options)
        cache = LastValueCache()
        clip_frame = reference_frame = motion_frames = None
        for chunk, next_chunk in zip_longest(clip.chunks, clip.chunks[1:]):
            report = make_reporter(progress, self.device, chunk.index + 1, len(clip.chunks))
            if chunk.index == 0:
                report("prepare")
            if clip_frame is None or request.video is not None:
                clip_frame = crop_image(request.frame_at(chunk.start), clip.crop).to(self.device)
            if chunk.overlap == 0 or reference_frame is None:
                reference_frame, motion_frames = clip_frame, None
            inputs = ChunkInputs(clip_frame_CHW=clip_frame, motion_frames_CFHW=motion_frames, cache=cache)
            latent = self._retry_on_oom(
                size, num_persons, generator, self.denoise_chunk, clip, chunk, inputs, generator, report
            )
            del inputs
            motion_frames = None  # freed before the VAE decodes
            decoded = DecodedChunk(chunk, num_motion=next_chunk.overlap if next_chunk is not None else 0)
            yield from self._decode_chunk(clip, decoded, latent, reference_frame, report)
            motion_frames = decoded.motion_frames(self.offload.offload_device)

    def reserve_memory(self, options: SamplingOptions, num_persons: int, *, height: int, width: int) -> None:
        """Move the networks to where a request of this size needs them, which leaves room for its own tensors.

        `stream` does so; call it before other work for the request on the device, such as speech embeddings. Raises
        `OutOfMemoryPlanError` (a ValueError) if the device's free memory is not enough.
        """
        self.offload.plan_for(VideoSize(frames=options.frame_num, height=height, width=width), num_persons)

    def resolve_layout(self, request: Request, options: SamplingOptions) -> ImageLayout:
        """The image's crop and the persons' masks on the latent grid: the request's, or computed here.

        Raises ValueError for a request that the model does not support.
        """
        sizes = self.config.transformer
        check_supported(self.config, request.num_persons, request.video is not None)
        check_embeddings(request.speech, sizes.audio_layers, sizes.audio_dim)
        if request.layout is not None:
            return request.layout
        image, buckets = request.image, self.config.buckets[options.size_class]
        return layout_image(
            image.height, image.width, buckets, request.num_persons, request.person_masks, options.aspect
        )

    @torch.inference_mode()
    def prepare(self, request: Request, options: SamplingOptions) -> Clip:
        """Compute what all chunks share: prompts, masks, time embeddings. Raises as `resolve_layout` does."""
        layout = self.resolve_layout(request, options)
        size = chunk_size(layout, options)
        condition = ClipCondition(
            options=options,
            size=size,
            text_states=self._encode_prompts(request, options),
            masks_3HW=layout.masks if request.num_persons == 2 else None,
        )
        return Clip(
            request=request,
            options=options,
            size=size,
            chunks=plan_chunks(_num_frames(request, options), options.frame_num, options.motion_frame, request.cuts),
            crop=layout.crop,
            masks_3HW=layout.masks.to(self.device),
            state=self.sampler.prepare(condition),
        )

    @torch.inference_mode()
    def denoise_chunk(
        self, clip: Clip, chunk: Chunk, inputs: ChunkInputs, generator: torch.Generator, report: Reporter
    ) -> Tensor:
        """The latent of a chunk, float32 16 x T x H/8 x W/8."""
        with self.offload.on_device(self.models.vae) as vae:
            start = CONDITIONERS[self.config.mode](vae, inputs, clip.size, self.offload.offload_device)
        with self.offload.on_device(self.models.image_encoder) as image_encoder:
            image_tokens = image_encoder(start.clip_frame_CHW.to(self.device))
        condition = ChunkCondition(
            condition_CTHW=start.condition_CTHW,
            image_tokens=image_tokens,
            speech_windows=speech_windows(clip.request.speech, chunk, self.config.transformer.audio_window)[None],
            motion=start.motion,
        )
        report("condition")
        return self.sampler.sample(
            clip.state, condition, generator, on_step=lambda steps, done: report("denoise", steps, done)
        )

    def _decode_chunk(
        self, clip: Clip, decoded: DecodedChunk, latent_CTHW: Tensor, reference_CHW: Tensor, report: Reporter
    ) -> Generator[Tensor, None, None]:
        """Yield the new frames of a chunk in slices; "decode" is reported before the last one is yielded.

        When the device runs out of memory, decode again under a smaller plan and skip the slices already counted.
        """
        strength = clip.options.color_correction_strength
        while not decoded.is_complete:
            try:
                offload_device = self.offload.offload_device
                with self.offload.on_device(self.models.vae) as vae:
                    slices = decode_video(vae, latent_CTHW, reference_CHW, strength, offload_device)
                    for frames_CFHW in islice(slices, decoded.num_slices, None):
                        new_CFHW = decoded.add(frames_CFHW, offload_device)
                        if decoded.is_complete:
                            report("decode")
                        if new_CFHW.shape[1]:
                            yield new_CFHW
                        if decoded.is_complete:
                            return
            except torch.OutOfMemoryError as error:
                smaller = self._smaller_plan(clip.size, clip.request.num_persons, error)
            self.offload.apply(smaller)

    def _encode_prompts(self, request: Request, options: SamplingOptions) -> dict[bool, Tensor]:
        """The encoder's states of the prompt (True) and the negative prompt (False) that a guidance pass uses."""
        prompts = {True: request.prompt, False: options.negative_prompt}
        used = {PASSES[name].prompt for name in options.guider().passes}
        with self.offload.on_device(self.models.text_encoder) as text_encoder:
            return {key: text_encoder(prompts[key]) for key in used}

    def _retry_on_oom(
        self,
        size: VideoSize,
        num_persons: int,
        generator: torch.Generator,
        work: Callable[P, T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Call `work`; when the device runs out of memory, call it again under the next smaller offload plan.

        The generator is reset before each attempt, so that the video depends on the seed alone.
        """
        state = generator.get_state()
        while True:
            try:
                return work(*args, **kwargs)
            except torch.OutOfMemoryError as error:
                smaller = self._smaller_plan(size, num_persons, error)
            generator.set_state(state)
            self.offload.apply(smaller)

    def _smaller_plan(self, size: VideoSize, num_persons: int, error: torch.OutOfMemoryError) -> OffloadPlan:
        """The next smaller offload plan. Raises `error` where there is none."""
        smaller = self.offload.next_smaller(size, num_persons)
        if smaller is None:
            raise error
        logger.warning("out of memory under offload plan %s: %s", self.offload.plan, error)
        return smaller


def chunk_size(layout: ImageLayout, options: SamplingOptions) -> VideoSize:
    """Frames, height and width of a chunk."""
    height, width = layout.crop.size
    return VideoSize(frames=options.frame_num, height=height, width=width)


def _num_frames(request: Request, options: SamplingOptions) -> int:
    """Frames of the video: those of the longest speech, at most `max_frames_num`."""
    return min(request.num_frames, options.max_frames_num)
