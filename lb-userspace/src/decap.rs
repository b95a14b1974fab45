//! Backend-side decapsulation: attach, detach, status.
