"""The states of the main stream's parser."""

from __future__ import annotations

from enum import Enum


class MainState(Enum):
    """Where a main stream stands."""

    HEADER = "waits for the 8 bytes of the header"
    RECORD = "waits for the byte that tells a record's type"
    CONFIGURATION = "waits for the configuration, whose parts tell their lengths"
    COMMAND = "waits for the 5 bytes of a command and the data whose length they tell"
    SECTION = "waits for the head of a section: 14 bytes and its name"
    PART = "waits for the 5 bytes that head a further part of a section"
    WORD = "waits for a word of a ram section, a block's name and a fill byte"
    BLOCK = "waits for an entry of the block list"
    FOOTER = "waits for the 5 bytes of a footer"
    DESCRIPTION = "waits for the 5 bytes that head the description, if there is one"
    SKIP = "lets bytes of known number go by"
    DEVICE = "lets a device's data go by, up to their footer"
    LOST = "lets bytes go by after missing ones, up to a boundary"
    REST = "lets everything go by"
