"""Where weights may come from, as the operator wishes it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from src.weights.manifest import Bundle, Hub

BASE_URL = "https://weights.replicate.delivery/default/multitalk/weights"
BASE_URL_VARIABLE = "MULTITALK_WEIGHTS_URL"
SOURCES_VARIABLE = "MULTITALK_WEIGHTS_SOURCES"
REVISIONS_VARIABLE = "MULTITALK_HUB_REVISIONS"
NAMES = ("multitalk", "huggingface")
NOWHERE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Sources in order of preference (none: only what is there counts), the base URL of the tars, hub revisions."""

    names: tuple[str, ...] = NAMES
    base_url: str = BASE_URL
    revisions: Mapping[str, str] = field(default_factory=dict)

    def tar_url(self, bundle: Bundle) -> str:
        """The address of a bundle's tar."""
        return f"{self.base_url.rstrip('/')}/{bundle.tar}"

    def hub(self, bundle: Bundle) -> Hub:
        """A bundle's repository, at the revision that the operator named, or else the manifest's."""
        assert bundle.hub is not None
        return replace(bundle.hub, revision=self.revisions.get(bundle.hub.repository, bundle.hub.revision))

    def of(self, bundle: Bundle) -> tuple[str, ...]:
        """The sources that have a bundle."""
        has = {"multitalk": bundle.tar, "huggingface": bundle.hub}
        return tuple(name for name in self.names if has[name])


def read_sources(environ: Mapping[str, str]) -> Sources:
    """The environment's choice; ValueError for values that make no sense."""
    return Sources(
        names=read_names(environ.get(SOURCES_VARIABLE) or ",".join(NAMES)),
        base_url=environ.get(BASE_URL_VARIABLE) or BASE_URL,
        revisions=read_revisions(environ.get(REVISIONS_VARIABLE, "")),
    )


def read_names(text: str) -> tuple[str, ...]:
    """`multitalk,huggingface` in any order, one of them, or `none`."""
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if names == (NOWHERE,):
        return ()
    if unknown := [name for name in names if name not in NAMES]:
        raise ValueError(f"{SOURCES_VARIABLE} is {text!r}; {unknown[0]!r} is not one of {', '.join((*NAMES, NOWHERE))}")
    return tuple(dict.fromkeys(names))


def read_revisions(text: str) -> dict[str, str]:
    """`owner/repository=commit`, several of them separated by commas."""
    pairs = [entry.strip().partition("=") for entry in text.split(",") if entry.strip()]
    if any("/" not in repository or not revision for repository, _, revision in pairs):
        raise ValueError(f"{REVISIONS_VARIABLE} is {text!r}; it needs owner/repository=revision, separated by commas")
    return {repository.strip(): revision.strip() for repository, _, revision in pairs}
