//! The loaded data plane: programs, maps, links and their pins.
