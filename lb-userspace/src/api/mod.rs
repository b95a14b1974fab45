//! HTTP/JSON over a unix socket.
