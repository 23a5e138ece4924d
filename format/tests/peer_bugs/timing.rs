//! Requests that take effect late.
