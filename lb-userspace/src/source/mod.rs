//! Where what is wanted comes from. Each source says what it wants in the types of the [model](crate::model).

pub mod file;
