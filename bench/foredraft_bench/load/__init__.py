"""Load without draft models: simulated devices that know what the target will say, and err as devices err."""
