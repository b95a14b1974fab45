//! What operators want and what they are told, in words that every room shares.

mod problem;

pub use self::problem::ProblemKind;
