//! Edits of a config's text that keep its format and comments.
