"""A catalogue's index in the cache: built once for its content and embedder, then opened."""

import hashlib
from collections.abc import Callable, Sequence

from filelock import FileLock

from ctd_agent.cache import cache_folder
from ctd_agent.console import note
from ctd_agent.errors import CtdError, UserError
from ctd_agent.schema import Label
from ctd_agent.tools.embedding import default_embedder, load_embedder
from ctd_agent.tools.hnsw import start_graph
from ctd_agent.tools.label_index import FORMAT, LabelIndex, fingerprint
from ctd_agent.tools.seal import DamagedError


def cached_index(
    labels: Sequence[Label], embedder: str | None = None, progress: Callable[[int], None] = lambda _: None
) -> LabelIndex:
    """Return the index of a catalogue, building it where the cache has none.

    A large one is then given a graph in the background, for later runs: this one goes on without.
    Raises UserError where the cache cannot be written.
    """
    spec = load_embedder(embedder or default_embedder(len(labels))).spec
    key = hashlib.sha256(f"{FORMAT} {spec} {fingerprint(labels)}".encode()).hexdigest()[:24]
    folder = cache_folder() / "indexes" / key
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):  # another process may be building it
            try:
                return LabelIndex.open(folder, spec)
            except DamagedError:
                note(f"{folder}: the cached index is damaged, so it is built again")
            except (UserError, CtdError):  # not built yet, or of another version of the engine
                pass
            index = LabelIndex.build(labels, folder, spec, progress)
            start_graph(folder, index.manifest)
            return index
    except OSError as error:
        raise UserError(
            f"{folder.parent}: {error}; make room there, or set CTD_AGENT_CACHE to another folder"
        ) from error
