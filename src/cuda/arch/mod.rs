//! Tile sizes and split counts, one file per architecture, and nowhere else.

pub mod sm80;
pub mod sm90;
