//! Why a config is refused: where it is wrong, what is wrong there, and what would be right.

use std::{
    fmt, io,
    ops::Range,
    path::{Path, PathBuf},
};

use nix::unistd::geteuid;

use crate::seed::SeedError;

/// Everything that is wrong with a config, in the order of the file; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(Vec<ConfigError>);

/// One thing that is wrong with a config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The file, as it was named.
    pub file: PathBuf,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong and what would be right, in one line.
    pub message: String,
    /// The line as it stands in the file.
    pub source: String,
    /// Characters of the line, from the column on, that are wrong; at least 1.
    pub width: usize,
}

/// Why no config came out of a file.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file cannot be read.
    #[error("cannot read the config {}: {error}{}", path.display(), hint(error))]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: io::Error,
    },
    /// The file was read and is not a valid config.
    #[error(transparent)]
    Invalid(#[from] ConfigErrors),
    /// The config names a hash seed that cannot be had.
    #[error("`hash_seed_file` in [node] of {}: {error}", path.display())]
    Seed {
        /// The config file.
        path: PathBuf,
        /// What is wrong with the seed.
        #[source]
        error: SeedError,
    },
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "; create it, or name another with `--config`",
        io::ErrorKind::PermissionDenied if geteuid().is_root() => {
            "; the daemon has not got root's power to read everything: make the file root's or readable by all, and \
             the directories above it open to root"
        }
        io::ErrorKind::PermissionDenied => "; run as a user who may read it",
        _ => "",
    }
}

impl ConfigErrors {
    /// The errors in the order of the file.
    pub fn iter(&self) -> std::slice::Iter<'_, ConfigError> {
        self.0.iter()
    }

    /// Gives each problem its place in `text`; `problems` must not be empty.
    pub(super) fn locate(text: &str, file: &Path, mut problems: Vec<Problem>) -> Self {
        problems.sort_by_key(|problem| problem.span.start);
        Self(problems.into_iter().map(|problem| ConfigError::locate(text, file, problem)).collect())
    }
}

impl<'e> IntoIterator for &'e ConfigErrors {
    type Item = &'e ConfigError;
    type IntoIter = std::slice::Iter<'e, ConfigError>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

impl ConfigError {
    fn locate(text: &str, file: &Path, problem: Problem) -> Self {
        let Problem { span, message } = problem;
        let start = text.floor_char_boundary(span.start);
        let line_start = text[..start].rfind('\n').map_or(0, |newline| newline + 1);
        let source = text[line_start..].lines().next().unwrap_or_default();
        let line_end = line_start + source.len();
        let end = text.ceil_char_boundary(span.end).min(line_end).max(start);
        Self {
            file: file.to_owned(),
            line: text[..line_start].matches('\n').count() + 1,
            column: text[line_start..start].chars().count() + 1,
            message,
            source: source.to_owned(),
            width: text[start..end].chars().count().max(1),
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, line, column, message, source, width } = self;
        writeln!(f, "{}:{line}:{column}: {message}", file.display())?;
        writeln!(f, "{line:>5} | {source}")?;
        // A tab stays a tab, so that the carets stand below what they mean however wide the terminal makes it.
        let indent: String = source.chars().take(column - 1).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
        write!(f, "      | {indent}{}", "^".repeat(*width))
    }
}

impl std::error::Error for ConfigError {}

/// Something wrong at some bytes of the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    /// The bytes that are wrong.
    pub(super) span: Range<usize>,
    /// What is wrong and what would be right.
    pub(super) message: String,
}

/// What was found wrong so far.
#[derive(Debug, Default)]
pub(super) struct Problems(pub(super) Vec<Problem>);

impl Problems {
    /// Notes that `message` is wrong at `span`.
    pub(super) fn add(&mut self, span: Range<usize>, message: impl Into<String>) {
        self.0.push(Problem { span, message: message.into() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_shows_its_place() {
        let text = "a = 1\n\tb = \"é\" # ü\n";
        let at = text.find("# ü").unwrap();
        let problem = Problem { span: at..at + "# ü".len(), message: "no umlauts".into() };
        let errors = ConfigErrors::locate(text, Path::new("naru.toml"), vec![problem]);
        let expected = "naru.toml:2:10: no umlauts\n    2 | \tb = \"é\" # ü\n      | \t        ^^^";
        assert_eq!(errors.to_string(), expected);
    }

    #[test]
    fn a_place_behind_the_last_line_is_shown_too() {
        let problem = Problem { span: 9..9, message: "cut short".into() };
        let errors = ConfigErrors::locate("a = [1,\n\n", Path::new("f"), vec![problem]);
        let error = errors.iter().next().unwrap();
        assert_eq!((error.line, error.column, error.source.as_str(), error.width), (3, 1, "", 1));
    }

    #[test]
    fn errors_stand_in_the_order_of_the_file() {
        let problem = |start, message: &str| Problem { span: start..start + 1, message: message.into() };
        let errors = ConfigErrors::locate("a\nb\n", Path::new("f"), vec![problem(2, "second"), problem(0, "first")]);
        let messages: Vec<_> = errors.iter().map(|error| error.message.as_str()).collect();
        assert_eq!(messages, ["first", "second"]);
    }
}
