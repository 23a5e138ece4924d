//! One module a subcommand: its arguments, and what it does.

pub mod cache;
pub mod completions;
pub mod img;
pub mod quota;
pub mod reproduce;
pub mod run;
pub mod serve;
pub mod status;
pub mod sweep;
pub mod trace;
pub mod warm;
