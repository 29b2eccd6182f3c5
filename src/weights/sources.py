"""Download sources: their order, the base URL of the tars, and revisions of hub repositories."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from src.weights.manifest import Bundle, HubRepo

BASE_URL = "https://weights.replicate.delivery/default/multitalk/weights"
BASE_URL_VARIABLE = "MULTITALK_WEIGHTS_URL"
SOURCES_VARIABLE = "MULTITALK_WEIGHTS_SOURCES"
REVISIONS_VARIABLE = "MULTITALK_HUB_REVISIONS"
TAR_SOURCE, HUB_SOURCE = "multitalk", "huggingface"
SOURCE_NAMES = (TAR_SOURCE, HUB_SOURCE)
NO_SOURCE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Source names in order of preference (empty: no network), base URL of the tars, hub revisions by repository."""

    names: tuple[str, ...] = SOURCE_NAMES
    base_url: str = BASE_URL
    revisions: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_published_site(self) -> bool:
        """Whether the tars come from the published site and not from the operator's own URL."""
        return self.base_url.rstrip("/") == BASE_URL

    def tar_url(self, bundle: Bundle) -> str:
        """The URL of a bundle's tar."""
        return f"{self.base_url.rstrip('/')}/{bundle.tar}"

    def hub_repo(self, bundle: Bundle) -> HubRepo:
        """A bundle's hub repository at the operator's revision, or else at the manifest's."""
        assert bundle.hub is not None
        return replace(bundle.hub, revision=self.revisions.get(bundle.hub.repository, bundle.hub.revision))

    def available(self, bundle: Bundle) -> tuple[str, ...]:
        """The names of the sources that offer a bundle."""
        offered = {TAR_SOURCE: bundle.tar, HUB_SOURCE: bundle.hub}
        return tuple(name for name in self.names if offered[name])


def read_sources(environ: Mapping[str, str]) -> Sources:
    """Read the sources from environment variables. Raises ValueError for an invalid value."""
    return Sources(
        names=parse_names(environ.get(SOURCES_VARIABLE) or ",".join(SOURCE_NAMES)),
        base_url=environ.get(BASE_URL_VARIABLE) or BASE_URL,
        revisions=parse_revisions(environ.get(REVISIONS_VARIABLE, "")),
    )


def parse_names(text: str) -> tuple[str, ...]:
    """Parse `multitalk,huggingface` in any order, one of the two, or `none`."""
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if names == (NO_SOURCE,):
        return ()
    if unknown := [name for name in names if name not in SOURCE_NAMES]:
        allowed = ", ".join((*SOURCE_NAMES, NO_SOURCE))
        raise ValueError(f"{SOURCES_VARIABLE} is {text!r}; {unknown[0]!r} is not one of {allowed}")
    return tuple(dict.fromkeys(names))


def parse_revisions(text: str) -> dict[str, str]:
    """Parse comma-separated `owner/repository=revision` pairs."""
    pairs = [entry.strip().partition("=") for entry in text.split(",") if entry.strip()]
    if any("/" not in repository or not revision for repository, _, revision in pairs):
        raise ValueError(f"{REVISIONS_VARIABLE} is {text!r}; it needs owner/repository=revision, separated by commas")
    return {repository.strip(): revision.strip() for repository, _, revision in pairs}
