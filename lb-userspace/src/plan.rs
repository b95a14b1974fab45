//! The difference between what the maps hold and what a config wants, as an ordered list of map writes.
