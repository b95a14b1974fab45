//! naru's tests.
