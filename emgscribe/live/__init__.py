"""Live use: EMG from a device, a file or the simulator -> text, as it is typed."""
