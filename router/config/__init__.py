"""The configuration: what may be set, where it is looked for, and what is said when it is wrong.

A setting is taken from the first of these that has it:

    command-line flags  >  CHIASM_… environment variables  >  one TOML file  >  the defaults in `settings.py`

The file is the one that `--config` names, else the first that exists of `./config.toml`,
`$XDG_CONFIG_HOME/chiasm/config.toml` and `/etc/chiasm/config.toml`; files are never merged with each other.

`settings.py` holds the tables (begin reading there) and `options.py` the kinds of values in them.  `load.py` gets one
from `files.py`, `variables.py` (`${VAR}` in a file) and `overrides.py` (variables and flags beside it).  `faults.py`,
with `places.py` and `spelling.py`, says what is wrong, and `printing.py` shows what is in force.

*Secrets in files of their own.*  Where a variable is not set but the same name with `_FILE` behind it is, its value is
the content of the file named there, as container platforms hand secrets over.

Values of secrets appear in no message, no `repr` and no printed configuration.
"""

from router.config.faults import ConfigError
from router.config.load import Loaded, load_settings
from router.config.options import is_loopback
from router.config.overrides import NO_FLAGS, Flags
from router.config.printing import masked
from router.config.settings import (
    ImagesSettings,
    ServerSettings,
    Settings,
    StoreSettings,
    TextSettings,
    UpstreamSettings,
    VisionSettings,
)

__all__ = [
    "NO_FLAGS",
    "ConfigError",
    "Flags",
    "ImagesSettings",
    "Loaded",
    "ServerSettings",
    "Settings",
    "StoreSettings",
    "TextSettings",
    "UpstreamSettings",
    "VisionSettings",
    "is_loopback",
    "load_settings",
    "masked",
]
