//! The daemon's one decision maker: config in, map writes out.
