"""MultiTalk: picture, speech and prompt to video, chunk by chunk.

Shapes: C channels, F video frames, T latent frames, H x W.
"""

import functools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

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
from wan.decode import FrameSink, decode_video
from wan.modules.rope import RotaryEmbedding, video_rope
from wan.modules.speaker_labels import SpeakerMasks, token_masks
from wan.modules.transformer import Context, KVCache, TimeEmbedding
from wan.modules.verify_kernels import verify
from wan.motion import CONDITIONERS, ChunkInputs, LastValueCache
from wan.offload.estimate import HOST
from wan.offload.manager import OffloadManager, initial_device
from wan.progress import Progress, Report, reporter
from wan.sampling.denoise import Denoiser, denoise, draw_noise
from wan.sampling.guidance import PASSES
from wan.sampling.options import Cache, SamplingOptions, resolve_options
from wan.sampling.plan import Step, plan_chunk
from wan.sampling.schedule import timesteps
from wan.types import Aspect, VideoSize

logger = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipState:
    """All that stays the same from chunk to chunk. `silence` is empty where every pass hears the speech."""

    size: VideoSize
    chunks: list[Chunk]
    crop: Crop
    masks_3HW: Tensor
    speakers: SpeakerMasks | None
    texts: Mapping[str, KVCache]
    silence: KVCache
    times: list[float]
    time_embeddings: list[TimeEmbedding]
    rotation: RotaryEmbedding
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
        return torch.cat([frames.cpu() for frames in self.stream(request, options, progress)], dim=1)

    def use_loras(self, wanted: Sequence[Lora]) -> None:
        """Merge exactly these LoRAs into the transformer, from its own weights; none gives those back to the last bit.

        Raises `LoraError` (a ValueError) for a file that does not fit.
        """
        self.loras.switch(self.models.transformer, wanted)

    def stream(
        self,
        request: Request,
        options: SamplingOptions,
        progress: Callable[[Progress], None] | None = None,
        hand_on: Callable[[Tensor], None] | None = None,
    ) -> Iterator[Tensor]:
        """The video as it is made: for every chunk its fresh frames, float32 3 x F x H x W, where the plan left them.

        Only the frames that the next chunk continues from are kept. `hand_on` is given the same frames earlier, up to
        four at a time as they are decoded, on the device.
        """
        generator = torch.Generator(self.device).manual_seed(options.seed)
        persons = len(request.tracks)
        size = self.frame(request, options)[0]
        self.offload.plan_for(size, persons)
        scene = self._within_memory(lambda: self.prepare(request, options), generator, size, persons)
        first = last = frame = None
        memory = LastValueCache()
        for chunk in scene.chunks:
            report = reporter(progress, self.device, chunk.index + 1, len(scene.chunks))
            if chunk.index == 0:
                report("prepare")
            if frame is None or request.source is not None:
                frame = crop_image(request.frame(chunk.start), scene.crop).to(self.device)
            if chunk.overlap == 0 or first is None:
                first, last = frame, None
            given = ChunkInputs(frame_CHW=frame, first_CHW=first, last_CFHW=last, memory=memory)
            outlet = FrameSink(chunk, hand_on)
            make = functools.partial(self.make_chunk, request, options, scene, chunk, given, generator, report, outlet)
            video = self._within_memory(make, generator, size, persons)
            last = video[:, -options.motion_frame :].clone()
            yield video[:, chunk.overlap : chunk.overlap + chunk.fresh]
            del video  # the next chunk needs the room

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
        length = min(max(map(len, request.tracks)), options.max_frames_num)

        transformer = self.models.transformer
        embeddings = self.embed_times(options)
        plan = self.plan(options, embeddings)
        masks = framing.masks.to(self.device)
        speakers = token_masks(masks[None], *size.grid[1:]) if len(request.tracks) == 2 else None
        hears = all(PASSES[name].speech for step in plan for name in step.passes)
        return ClipState(
            size=size,
            chunks=plan_chunks(length, options.frame_num, options.motion_frame, request.cuts),
            crop=framing.crop,
            masks_3HW=masks,
            speakers=speakers,
            texts=self._texts(request, options),
            silence=() if hears else transformer.embed_speech(self._silence(size)),
            times=timesteps(options.sampling_steps, options.shift).tolist(),
            time_embeddings=embeddings,
            rotation=video_rope(size.grid, transformer.config.head_dim, self.device),
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

    @torch.inference_mode()
    def make_chunk(
        self,
        request: Request,
        options: SamplingOptions,
        scene: ClipState,
        chunk: Chunk,
        given: ChunkInputs,
        generator: torch.Generator,
        report: Report,
        outlet: FrameSink,
    ) -> Tensor:
        """One chunk, float32 3 x F x H x W in [-1, 1]."""
        with self.offload.on_device(self.models.vae) as vae:
            begin = CONDITIONERS[self.config.mode]
            beginning = begin(vae, given, scene.size, generator, self.offload.offload_device)
        contexts = self._contexts(request, scene, chunk, beginning.seen_CHW.to(self.device))
        report("condition")

        noise = draw_noise((len(beginning.condition_CTHW) - MASK_CHANNELS, *scene.size.latent), generator)
        velocity = Denoiser(
            self.models.transformer,
            beginning.condition_CTHW,
            contexts,
            scene.time_embeddings,
            scene.rotation,
            scene.size.grid,
            scene.plan,
        )
        latent = denoise(
            noise,
            scene.times,
            velocity,
            options.guider(),
            beginning.motion,
            on_step=lambda step: report("denoise", scene.plan, step),
        )

        with self.offload.on_device(self.models.vae) as vae:
            strength, rest = options.color_correction_strength, self.offload.offload_device
            video = decode_video(vae, latent, given.first_CHW, strength, rest, outlet)
        report("decode")
        return video

    def _contexts(self, request: Request, scene: ClipState, chunk: Chunk, frame_CHW: Tensor) -> dict[str, Context]:
        """What each pass of a chunk is conditioned on."""
        transformer = self.models.transformer
        with self.offload.on_device(self.models.image_encoder) as image_encoder:
            image = transformer.embed_image(image_encoder(frame_CHW))
        windows = speech_windows(request.tracks, chunk, self.config.transformer.audio_window)
        heard = {True: transformer.embed_speech(windows[None].to(self.device)), False: scene.silence}
        return {
            name: Context(
                text=text,
                image=image,
                speech=heard[PASSES[name].speech],
                masks=scene.speakers if PASSES[name].speech else None,
            )
            for name, text in scene.texts.items()
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

    def _within_memory(self, work: Callable[[], T], generator: torch.Generator, size: VideoSize, persons: int) -> T:
        """Do the work; where the device runs out of memory, do it again under the next smaller plan.

        The random draws are taken back, so that the video is the one that the seed stands for.
        """
        state = generator.get_state()
        while True:
            try:
                return work()
            except torch.OutOfMemoryError as error:
                smaller = self.offload.next_smaller(size, persons)
                if smaller is None:
                    raise
                logger.warning("memory ran out under plan %s (%s)", self.offload.plan, error)
            generator.set_state(state)
            self.offload.apply(smaller)
