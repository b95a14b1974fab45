//! The config file as the controller sees it: the truth, read again whenever it matters.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    disk, fault,
    model::{self, Config, Sources},
    seed::HashSeed,
    source::file::{
        ConfigErrors, ReadError, Sections,
        edit::{self, Edit, EditError},
    },
};

/// The config file, and what the command line says instead of it.
#[derive(Clone, Debug)]
pub struct ConfigFile {
    /// Its path.
    pub path: PathBuf,
    /// What the command line says instead.
    pub overrides: Overrides,
}

/// What the command line says instead of the config file.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// Instead of `node.bpffs`.
    pub bpffs: Option<PathBuf>,
    /// Instead of `node.socket`.
    pub socket: Option<PathBuf>,
    /// Instead of `node.state`.
    pub state: Option<PathBuf>,
}

/// The text of a file, which several may hold.
pub type Text = Arc<String>;

/// What a file holds.
#[derive(Clone, Debug)]
pub struct Contents {
    /// The text.
    pub text: Text,
    /// What it says, with the overrides.
    pub config: Config,
    sections: Sections,
}

/// What the file and operators want together. The file is the truth: what it does not say is not there.
pub type Desired = model::Desired<Contents>;

impl Sources for Contents {
    fn merged(&self) -> &Config {
        &self.config
    }
}

impl Contents {
    /// The text after an edit.
    pub fn edited(&self, edit: &Edit) -> Result<String, EditError> {
        edit::apply_edit_to(&self.text, &self.sections, Some(&self.config), edit)
    }
}

impl ConfigFile {
    /// Reads and parses the file as it is just now. Spares the parsing where the text is that of `known`. The hash seed
    /// is that of `known`, whatever its file holds meanwhile.
    pub fn read(&self, known: Option<&Contents>) -> Result<Contents, ReadError> {
        self.parse(self.text()?, known).map_err(ReadError::from)
    }

    /// `contents` with the hash seed that they name, as its file holds it now.
    pub fn with_seed(&self, mut contents: Contents) -> Result<Contents, ReadError> {
        *contents.config.local().hash_seed = self.seed(&contents.config)?;
        Ok(contents)
    }

    /// The hash seed that a config of this file names.
    pub fn seed(&self, config: &Config) -> Result<HashSeed, ReadError> {
        let path = self.path.clone();
        HashSeed::load(config.node.hash_seed_file.as_deref()).map_err(|error| ReadError::Seed { path, error })
    }

    /// What the file holds, once nobody is writing to it.
    pub fn settled_text(&self) -> Result<String, ReadError> {
        disk::read_stable(&self.path).map_err(|error| self.unreadable(error))
    }

    /// What the file holds, which may be half a save: to be shown, and not to be applied.
    pub fn text(&self) -> Result<String, ReadError> {
        fault::read("config");
        disk::read(&self.path).map_err(|error| self.unreadable(error))
    }

    fn unreadable(&self, error: std::io::Error) -> ReadError {
        ReadError::Unreadable { path: self.path.clone(), error }
    }

    /// Parses `text` as if it were in the file; of what differs little from `known` only what differs. A text without
    /// `interfaces` keeps those of `known`. The hash seed is that of `known` as well.
    pub fn parse(&self, text: impl Into<Text>, known: Option<&Contents>) -> Result<Contents, ConfigErrors> {
        let text = text.into();
        let (mut config, sections) = match known {
            Some(known) if known.text == text => (known.config.clone(), known.sections.clone()),
            Some(known) => known.config.reparse(&known.text, &known.sections, &text, &self.path)?,
            None => Config::parse_with_sections(&text, &self.path)?,
        };
        if let Some(known) = known.filter(|_| !config.node.names_interfaces) {
            config.local().interfaces.clone_from(&known.config.node.interfaces);
        }
        let Overrides { bpffs, socket, state } = &self.overrides;
        let local = config.local();
        *local.hash_seed = known.map_or_else(HashSeed::default, |known| known.config.node.hash_seed);
        replace(local.bpffs, bpffs.as_deref());
        replace(local.socket, socket.as_deref());
        replace(local.state, state.as_deref());
        Ok(Contents { text, config, sections })
    }
}

fn replace(path: &mut PathBuf, by: Option<&Path>) {
    if let Some(by) = by {
        *path = by.to_owned();
    }
}
