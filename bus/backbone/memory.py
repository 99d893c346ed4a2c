"""A backbone that keeps everything in this process's memory: the same verbs and the same answers, and nothing left afterwards."""

from __future__ import annotations

from bus.backbone.interface import Backbone
from bus.backbone.local import LocalBackbone
from bus.backbone.memory_storage import MemoryStorage
from bus.backbone.storage import Loaded
from bus.clock import Clock


def memory_backbone(clock: Clock) -> Backbone:
    """Run its `run`, and close it at the end."""
    return LocalBackbone(MemoryStorage(), clock, Loaded(heads={}, classes=[], consumers=[], dead=[], recent=[], kept={}))
