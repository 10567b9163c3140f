"""The states of a version, and which of them follows an event. The reason of a state is beside it, in `Entry`."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Final


class State(Enum):
    """State of a version, as in models.proto."""

    #: It is being read, or its files aren't complete yet.
    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"
    #: It was unloaded, and calls still use it.
    UNLOADING = "unloading"
    #: A call for it loads it.
    AVAILABLE = "available"
    #: It may not be loaded. Told to clients only: an entry has `barred` beside its state.
    UNLOADED = "unloaded"


class Event(Enum):
    """What happens to a version. Several things may happen at once, since calls, scans and loads have threads."""

    #: Its files, or those of its model, are wrong.
    REFUSE = "refuse"
    #: Its files are complete, or have changed.
    ADMIT = "admit"
    #: It failed to load, and is to be tried again.
    RETRY = "retry"
    #: Its file begins to be read, and no other content of it is in memory.
    LOAD = "load"
    LOADED = "loaded"
    LOAD_FAILED = "load failed"
    #: There was no room in memory, so that it wasn't read.
    POSTPONE = "postpone"
    #: Calls get it no longer, and those that have it go on.
    UNLOAD = "unload"
    #: It was unloaded while no call used it.
    EVICT = "evict"
    #: The last call has ended that used it after it was unloaded.
    RELEASE = "release"


#: The state that follows each event. An event that isn't listed changes nothing: a version that is ready stays so
#: until it is unloaded, whatever becomes of its file.
TRANSITIONS: Final[Mapping[State, Mapping[Event, State]]] = {
    State.LOADING: {
        Event.REFUSE: State.FAILED,
        Event.ADMIT: State.AVAILABLE,
        Event.LOADED: State.READY,
        Event.LOAD_FAILED: State.FAILED,
        Event.POSTPONE: State.AVAILABLE,
    },
    State.AVAILABLE: {
        Event.REFUSE: State.FAILED,
        Event.LOAD: State.LOADING,
        # It was unloaded while a changed file was read.
        Event.LOADED: State.READY,
        Event.LOAD_FAILED: State.FAILED,
    },
    State.READY: {
        Event.UNLOAD: State.UNLOADING,
        Event.EVICT: State.AVAILABLE,
    },
    State.UNLOADING: {
        Event.REFUSE: State.FAILED,
        Event.LOAD: State.LOADING,
        Event.LOADED: State.READY,
        Event.LOAD_FAILED: State.FAILED,
        Event.RELEASE: State.AVAILABLE,
    },
    State.FAILED: {
        Event.ADMIT: State.AVAILABLE,
        Event.RETRY: State.AVAILABLE,
        Event.LOAD: State.LOADING,
        # It was refused while it was read.
        Event.LOADED: State.READY,
    },
}
