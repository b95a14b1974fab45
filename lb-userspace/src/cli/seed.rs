//! `naru seed`: the file of the flow hash's seed, without a daemon. Prints fingerprints and never a seed.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{
    args::Seed,
    exit::{Exit, Failure},
    table::Output,
};
use crate::seed::{self, HashSeed, SeedError};

/// A seed in a file, as JSON.
#[derive(Debug, Serialize)]
struct Found {
    file: PathBuf,
    fingerprint: String,
}

/// Does what `command` says.
pub fn seed(output: Output, command: &Seed) -> Result<Exit, Failure> {
    match command {
        Seed::Generate { file, force } => {
            let seed = seed::generate(file, *force).map_err(failure)?;
            output.print(&found(file, seed), generated_text);
        }
        Seed::Fingerprint { file } => {
            let seed = HashSeed::load(Some(file)).map_err(failure)?;
            output.print(&found(file, seed), |Found { fingerprint, .. }| format!("{fingerprint}\n"));
        }
    }
    Ok(Exit::Ok)
}

fn found(file: &Path, seed: HashSeed) -> Found {
    Found { file: file.to_owned(), fingerprint: seed.to_string() }
}

fn generated_text(Found { file, fingerprint }: &Found) -> String {
    let file = file.display();
    format!(
        "{file}: a new seed, fingerprint {fingerprint}\n\
         All load balancers of this site need this very file: copy it, with owner root and mode 0600, before any of \
         them uses it\n\
         Each uses it by `hash_seed_file = \"{file}\"` in [node] and `naru apply`, which moves every flow to another \
         slot\n"
    )
}

fn failure(error: SeedError) -> Failure {
    let exit = match error {
        SeedError::Malformed { .. } | SeedError::Exposed { .. } | SeedError::Foreign { .. } => Exit::Invalid,
        SeedError::Exists { .. } | SeedError::Unreadable { .. } | SeedError::Unwritten { .. } => Exit::Failed,
    };
    Failure::new(exit, error)
}
