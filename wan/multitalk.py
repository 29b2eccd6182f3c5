"""MultiTalk: picture, speech and prompt to video, chunk by chunk.

Shapes: C channels, F video frames, T latent frames, H x W.
"""

import logging
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from wan.checkpoint import Models, Precision, load_models
from wan.checkpoint.lora import Lora, LoraManager
from wan.chunks import Chunk, plan_chunks
from wan.conditioning.image import Crop, crop_image
from wan.conditioning.latent import MASK_CHANNELS
from wan.conditioning.layout import ImageLayout, layout_image
from wan.conditioning.request import EmbedSpeech, Request, parse_lengths, parse_request
from wan.conditioning.speech import check_embeddings, speech_windows
from wan.configs.capabilities import check_supported, choose_device
from wan.configs.schema import ModelConfig
from wan.decode import decode_video
from wan.modules.rope import RotaryEmbedding, video_rope
from wan.modules.speaker_labels import SpeakerMasks, token_masks
from wan.modules.transformer import Context, KVCache, TimeEmbedding
from wan.modules.verify_kernels import verify
from wan.motion import CONDITIONERS, ChunkInputs, LastValueCache
from wan.offload.estimate import HOST
from wan.offload.manager import OffloadManager, initial_device
from wan.offload.plan import OffloadPlan
from wan.progress import Progress, Reporter, make_reporter
from wan.sampling.denoise import Denoiser, denoise, draw_noise
from wan.sampling.guidance import PASSES
from wan.sampling.options import Cache, SamplingOptions, resolve_options
from wan.sampling.plan import Step, plan_chunk
from wan.sampling.schedule import timesteps
from wan.types import Aspect, VideoSize

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipState:
    """All that stays the same from chunk to chunk. `silence` is empty where every pass hears the speech."""

    request: Request
    options: SamplingOptions
    size: VideoSize
    chunks: list[Chunk]
    crop: Crop
    masks_3HW: Tensor
    speakers: SpeakerMasks | None
    texts: Mapping[str, KVCache]
    silence: KVCache
    times: list[float]
    time_embeddings: list[TimeEmbedding]
    rotary_emb: RotaryEmbedding
    plan: tuple[Step, ...]


class MultiTalkPipeline:
    """The networks on one device, and how they make a video.

    MultiTalk's or InfiniteTalk's: how a chunk begins is a matter of the weights, and `config.mode` says it.
    """

    def __init__(
        self,
        config: ModelConfig,
        checkpoint_dir: str | Path,
        device_id: int = 0,
        precision: Precision = "bf16",
        memory_limit: int | None = None,
        num_persistent_param_in_dit: int | None = None,
    ) -> None:
        """Load the weights of `config` from a folder of bundles (or the base bundle) onto a GPU, or else the CPU.

        `precision` fp8 or int8 keeps the large layers in eight bits; `memory_limit` caps the device's memory in bytes.
        `num_persistent_param_in_dit` caps how many of the transformer's parameters stay on the device; the others wait
        in host memory and are streamed, all blocks of them with 0. Both None: what fits decides.
        Raises `CheckpointError` (a ValueError) that lists what is absent, missing or unknown, and RuntimeError for a
        model that needs a GPU where there is none.
        """
        self.config = config
        self.device = choose_device(config, device_id)
        streams = num_persistent_param_in_dit is not None
        place = HOST if streams else initial_device(config, precision, self.device, memory_limit)
        self.models = load_models(config, Path(checkpoint_dir), place, precision)
        self.offload = OffloadManager(config, self.models, self.device, memory_limit, num_persistent_param_in_dit)
        self.loras = LoraManager()
        verify(self.device, self.models.transformer.dtype)

    @classmethod
    def from_models(
        cls,
        config: ModelConfig,
        models: Models,
        memory_limit: int | None = None,
        num_persistent_param_in_dit: int | None = None,
    ) -> "MultiTalkPipeline":
        """A pipeline of networks that are there already; the limits as above."""
        pipeline = cls.__new__(cls)
        pipeline.config, pipeline.models, pipeline.device = config, models, models.transformer.device
        pipeline.offload = OffloadManager(config, models, pipeline.device, memory_limit, num_persistent_param_in_dit)
        pipeline.loras = LoraManager()
        verify(pipeline.device, models.transformer.dtype)
        return pipeline

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
    ) -> Tensor:
        """The whole video, float32 3 x F x H x W in [-1, 1] on the CPU; F = min(longest track, max_frames_num).

        `input_data`: see `parse_request`. `size_buckget`: "multitalk-480" or "multitalk-720"; "infinitetalk-480" and
        "infinitetalk-720" are the same sizes, for InfiniteTalk's weights only. None means the preset's value, which
        `turbo` and the size select. InfiniteTalk was trained with a `motion_frame` of 9. `seed` below 0 draws one (and
        logs it). `cache`, its thresholds and `guidance_reuse` name what is approximated: see `SamplingOptions`.
        Raises ValueError for anything wrong in the arguments, before any network runs.
        """
        family, _, size_class = size_buckget.partition("-")
        families = ["multitalk"] if self.config.mode == "multitalk" else ["multitalk", "infinitetalk"]
        if family not in families:
            allowed = [f"'{name}-{each}'" for name in families for each in self.config.buckets]
            raise ValueError(f"size_buckget is {size_buckget!r}; {self.config.name} has {', '.join(allowed)}")
        request = parse_request(input_data, embed_speech)
        num_frames, overlap = parse_lengths(input_data, max(map(len, request.tracks)))
        options = resolve_options(
            self.config,
            size_class=size_class,
            turbo=turbo,
            motion_frame=motion_frame if overlap is None else overlap,
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
        size, _ = self.frame(request, options)
        video = torch.empty(3, _video_length(request, options), size.height, size.width)
        start = 0
        for frames in self.stream(request, options, progress):
            video[:, start : start + frames.shape[1]] = frames
            start += frames.shape[1]
        return video

    def use_loras(self, wanted: Sequence[Lora]) -> None:
        """Merge exactly these LoRAs into the transformer, from its own weights; none gives those back to the last bit.

        Raises `LoraError` (a ValueError) for a file that does not fit.
        """
        self.loras.set_active(self.models.transformer, wanted)

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
        size, persons = self.frame(request, options)[0], len(request.tracks)
        self.offload.plan_for(size, persons)
        clip = self._retry_on_oom(size, persons, generator, self.prepare, request, options)
        cache = LastValueCache()
        clip_frame = reference_frame = motion_frames = None
        for chunk, next_chunk in zip_longest(clip.chunks, clip.chunks[1:]):
            report = make_reporter(progress, self.device, chunk.index + 1, len(clip.chunks))
            if chunk.index == 0:
                report("prepare")
            if clip_frame is None or request.source is not None:
                clip_frame = crop_image(request.frame(chunk.start), clip.crop).to(self.device)
            if chunk.overlap == 0 or reference_frame is None:
                reference_frame, motion_frames = clip_frame, None
            inputs = ChunkInputs(
                clip_frame_CHW=clip_frame,
                reference_frame_CHW=reference_frame,
                motion_frames_CFHW=motion_frames,
                cache=cache,
            )
            latent = self._retry_on_oom(
                size, persons, generator, self.denoise_chunk, clip, chunk, inputs, generator, report
            )
            num_motion = next_chunk.overlap if next_chunk is not None else 0
            motion_frames = yield from self._decode_chunk(clip, chunk, latent, reference_frame, num_motion, report)

    def frame(self, request: Request, options: SamplingOptions) -> tuple[VideoSize, ImageLayout]:
        """Size of a chunk, and the picture on the model's grid. Raises ValueError for what does not fit there."""
        sizes = self.config.transformer
        check_supported(self.config, len(request.tracks), request.source is not None)
        check_embeddings(request.tracks, sizes.audio_layers, sizes.audio_dim)
        picture, buckets = request.picture, self.config.buckets[options.size_class]
        framing = layout_image(
            picture.height, picture.width, buckets, len(request.tracks), request.regions, options.aspect
        )
        height, width = framing.crop.size
        return VideoSize(frames=options.frame_num, height=height, width=width), framing

    @torch.inference_mode()
    def prepare(self, request: Request, options: SamplingOptions) -> ClipState:
        """Check the request against the model's grid, then compute what all chunks share."""
        size, framing = self.frame(request, options)
        transformer = self.models.transformer
        embeddings = self.embed_times(options)
        plan = self.plan(options, embeddings)
        masks = framing.masks.to(self.device)
        speakers = token_masks(masks[None], *size.grid[1:]) if len(request.tracks) == 2 else None
        hears = all(PASSES[name].speech for step in plan for name in step.passes)
        return ClipState(
            request=request,
            options=options,
            size=size,
            chunks=plan_chunks(_video_length(request, options), options.frame_num, options.motion_frame, request.cuts),
            crop=framing.crop,
            masks_3HW=masks,
            speakers=speakers,
            texts=self._texts(request, options),
            silence=() if hears else transformer.embed_speech(self._silence(size)),
            times=timesteps(options.sampling_steps, options.shift).tolist(),
            time_embeddings=embeddings,
            rotary_emb=video_rope(size.grid, transformer.config.head_dim, self.device),
            plan=plan,
        )

    @torch.inference_mode()
    def embed_times(self, options: SamplingOptions) -> list[TimeEmbedding]:
        """What the network is told of the time, for every step."""
        times = timesteps(options.sampling_steps, options.shift)[:-1].to(self.device)
        return [self.models.transformer.embed_time(t[None]) for t in times]

    def plan(self, options: SamplingOptions, embeddings: Sequence[TimeEmbedding]) -> tuple[Step, ...]:
        """What every step of a chunk runs."""
        return plan_chunk(self.config, options, [embedding.timestep_proj for embedding in embeddings])

    def denoise_chunk(
        self, clip: ClipState, chunk: Chunk, inputs: ChunkInputs, generator: torch.Generator, report: Reporter
    ) -> Tensor:
        """The latent of a chunk, float32 16 x T x H/8 x W/8."""
        with self.offload.on_device(self.models.vae) as vae:
            condition = CONDITIONERS[self.config.mode](vae, inputs, clip.size, generator, self.offload.offload_device)
        contexts = self._contexts(clip, chunk, condition.clip_frame_CHW.to(self.device))
        report("condition")

        noise = draw_noise((len(condition.condition_CTHW) - MASK_CHANNELS, *clip.size.latent), generator)
        velocity = Denoiser(
            self.models.transformer,
            condition.condition_CTHW,
            contexts,
            clip.time_embeddings,
            clip.rotary_emb,
            clip.size.grid,
            clip.plan,
        )
        return denoise(
            noise,
            clip.times,
            velocity,
            clip.options.guider(),
            condition.motion,
            on_step=lambda step: report("denoise", clip.plan, step),
        )

    def _decode_chunk(
        self,
        clip: ClipState,
        chunk: Chunk,
        latent_CTHW: Tensor,
        reference_CHW: Tensor,
        num_motion: int,
        report: Reporter,
    ) -> Generator[Tensor, None, Tensor | None]:
        """Yield the new frames of a chunk; return its last `num_motion` frames where the offload plan keeps them.

        When the device runs out of memory, decode again under a smaller plan and skip the slices already yielded.
        "decode" is reported before the last slice is yielded.
        """
        start, end, num_slices = 0, chunk.overlap + chunk.num_new, 0
        strength, motion_frames = clip.options.color_correction_strength, list[Tensor]()
        while True:
            offload_device = self.offload.offload_device
            try:
                with self.offload.on_device(self.models.vae) as vae:
                    slices = decode_video(vae, latent_CTHW, reference_CHW, strength, offload_device)
                    for frames_CFHW in islice(slices, num_slices, None):
                        motion = frames_CFHW[:, max(clip.size.frames - num_motion - start, 0) :]
                        motion_frames.append(motion.to(offload_device, copy=True))
                        new = frames_CFHW[:, max(chunk.overlap - start, 0) : end - start]
                        num_slices += 1
                        start += frames_CFHW.shape[1]
                        if start >= end:
                            report("decode")
                        if new.shape[1]:
                            yield new
                        if start >= end:
                            return (
                                torch.cat([each.to(offload_device) for each in motion_frames], dim=1)
                                if num_motion
                                else None
                            )
            except torch.OutOfMemoryError as error:
                smaller = self._smaller_plan(clip.size, len(clip.request.tracks), error)
            self.offload.apply(smaller)

    def _contexts(self, clip: ClipState, chunk: Chunk, frame_CHW: Tensor) -> dict[str, Context]:
        """What each pass of a chunk is conditioned on."""
        transformer = self.models.transformer
        with self.offload.on_device(self.models.image_encoder) as image_encoder:
            image = transformer.embed_image(image_encoder(frame_CHW))
        windows = speech_windows(clip.request.tracks, chunk, self.config.transformer.audio_window)
        heard = {True: transformer.embed_speech(windows[None].to(self.device)), False: clip.silence}
        return {
            name: Context(
                text=text,
                image=image,
                speech=heard[PASSES[name].speech],
                masks=clip.speakers if PASSES[name].speech else None,
            )
            for name, text in clip.texts.items()
        }

    def _texts(self, request: Request, options: SamplingOptions) -> dict[str, KVCache]:
        """What each pass of the guidance reads; the prompts are encoded once each, and only those that are read."""
        reads = {name: PASSES[name].prompt for name in options.guider().passes}
        prompts = {True: request.prompt, False: options.negative_prompt}
        with self.offload.on_device(self.models.text_encoder) as text_encoder:
            states = {which: text_encoder(prompts[which]) for which in set(reads.values())}
        encoded = {which: self.models.transformer.embed_text(tokens) for which, tokens in states.items()}
        return {name: encoded[which] for name, which in reads.items()}

    def _silence(self, size: VideoSize) -> Tensor:
        """The zero windows of ONE person, which is what passes without speech hear: no labels there."""
        sizes = self.config.transformer
        return torch.zeros(
            1, 1, size.frames, sizes.audio_window, sizes.audio_layers, sizes.audio_dim, device=self.device
        )

    def _retry_on_oom(
        self,
        size: VideoSize,
        persons: int,
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
                smaller = self._smaller_plan(size, persons, error)
            generator.set_state(state)
            self.offload.apply(smaller)

    def _smaller_plan(self, size: VideoSize, persons: int, error: torch.OutOfMemoryError) -> OffloadPlan:
        """The next smaller offload plan. Raises `error` where there is none."""
        smaller = self.offload.next_smaller(size, persons)
        if smaller is None:
            raise error
        logger.warning("out of memory under offload plan %s: %s", self.offload.plan, error)
        return smaller


def _video_length(request: Request, options: SamplingOptions) -> int:
    """Frames of the video: those of the longest track, at most `max_frames_num`."""
    return min(max(map(len, request.tracks)), options.max_frames_num)
