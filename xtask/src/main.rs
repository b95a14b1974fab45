//! `cargo xtask`: the verbs of naru's development. Each of them first runs `setup`, which is quick when there is
//! nothing to do.

mod against;
mod lint;
mod setup;

use std::{
    env,
    ffi::OsString,
    fs,
    process::{Command, ExitCode},
    thread,
};

use anyhow::{Context as _, bail};
use clap::{Parser, Subcommand};

/// Names the file in which tests say what they did not test: `patience::NOT_TESTED`.
const NOT_TESTED: &str = "NARU_NOT_TESTED";

/// Says that the run goes on without what it cannot test: `patience::ALLOW_UNTESTED`.
const ALLOW_UNTESTED: &str = "NARU_ALLOW_UNTESTED";

/// Says that the binary to be tested is a release: `patience::RELEASE`.
const RELEASE: &str = "NARU_RELEASE";

/// Says how many tests run at once.
const THREADS: &str = "RUST_TEST_THREADS";

/// So many, as they wait for much of their time.
const TESTS_A_CPU: usize = 2;

/// No more on a large machine: every lab has a daemon, and namespaces share the kernel's neighbour table.
const TESTS_AT_ONCE: usize = 16;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Sets up, shows, tests and measures naru")]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Install what is missing to build and run naru here, and say what was done
    Setup,
    /// Run the main job in a lab of network namespaces: real clients, naru, real backends
    Demo {
        /// Passed on, such as `--keep`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Run clippy, over what runs in the kernel as well
    Lint,
    /// Run every test
    Test {
        /// Go on where something cannot be tested on this machine, and say at the end what. Otherwise that fails
        #[arg(long)]
        allow_untested: bool,
        /// Test `naru` as it is released. What needs places to fail at, which a release has not, is not tested then
        #[arg(long)]
        release: bool,
        /// Passed on to `cargo test`, such as the name of a test
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Measure: `packet` for nanoseconds per packet, `throughput` for packets per second, `control` for the speed of
    /// changes, `consistency` for the connections that changes break, `flood` for those that a flood of SYNs breaks,
    /// `sweep` for the cost of sweeps
    Bench {
        /// Which benchmark, and what it takes
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().verb) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(verb: Verb) -> anyhow::Result<ExitCode> {
    setup::run(matches!(verb, Verb::Setup))?;
    match verb {
        Verb::Setup => Ok(ExitCode::SUCCESS),
        Verb::Lint => lint::run(),
        Verb::Demo { arguments } => {
            need_root("demo")?;
            // The lab runs the daemon that lies beside it. The profile is that of the tests, so that one build serves
            // both.
            finish(&mut cargo(&["build", "--bin", "naru", "--bin", "naru-lab"]))?;
            finish(cargo(&["run", "--quiet", "--bin", "naru-lab", "--", "demo"]).args(arguments))
        }
        Verb::Test { allow_untested, release, arguments } => {
            need_root("test")?;
            test(allow_untested, release, &arguments)
        }
        Verb::Bench { arguments } => {
            need_root("bench")?;
            let arguments = against::resolve(arguments)?;
            finish(cargo(&["run", "--quiet", "--release", "--bin", "naru-bench", "--"]).args(arguments))
        }
    }
}

/// Runs the tests; whatever they did not test stands at the end, where it is read.
fn test(allow_untested: bool, release: bool, arguments: &[OsString]) -> anyhow::Result<ExitCode> {
    finish(&mut cargo(&["build", "--workspace", "--bins"]))?;
    let before = against::naru_before();
    // Named, so that no test asks cargo for them while others run.
    let built = xtask::target_dir().join("debug");
    let mut tests = cargo(&["test", "--workspace", "--no-fail-fast"]);
    // What needs root is left out of `cargo test`, and says so.
    let (own, rest) =
        arguments.split_at(arguments.iter().position(|argument| argument == "--").unwrap_or(arguments.len()));
    if let Some(flag) = own.iter().find(|argument| *argument == "--release" || *argument == "--allow-untested") {
        bail!("{} goes before the names of tests: what follows them is for `cargo test`", flag.display());
    }
    tests.args(own).args(["--", "--include-ignored"]).args(rest.iter().skip(1));
    tests.env("NARU_BIN", built.join("naru")).env("NARU_LAB_BIN", built.join("naru-lab"));
    tests.env_remove(RELEASE);
    if env::var_os(THREADS).is_none() {
        let cpus = thread::available_parallelism().map_or(1, usize::from);
        tests.env(THREADS, (cpus * TESTS_A_CPU).min(TESTS_AT_ONCE).to_string());
    }
    if release {
        finish(&mut cargo(&["build", "--workspace", "--release", "--bin", "naru"]))?;
        tests.env("NARU_BIN", built.with_file_name("release").join("naru")).env(RELEASE, "1");
    }
    match before {
        Ok(before) => drop(tests.env("NARU_BEFORE_BIN", before)),
        Err(error) => eprintln!("warning: no upgrade can be tested: {error:#}"),
    }
    let untested = xtask::target_dir().join(format!("not-tested-{}", std::process::id()));
    tests.env(NOT_TESTED, &untested).env_remove(ALLOW_UNTESTED);
    if allow_untested {
        tests.env(ALLOW_UNTESTED, "1");
    }
    let status = tests.status().with_context(|| format!("cannot run {tests:?}"))?;
    if let Ok(lines) = fs::read_to_string(&untested) {
        println!("\n{lines}");
        fs::remove_file(&untested).with_context(|| format!("cannot remove {}", untested.display()))?;
    }
    Ok(status.code().map_or(ExitCode::FAILURE, |code| ExitCode::from(code as u8)))
}

fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(xtask::workspace());
    command
}

/// Runs a command to its end; one that fails ends this program with its exit code.
fn finish(command: &mut Command) -> anyhow::Result<ExitCode> {
    let status = command.status().with_context(|| format!("cannot run {command:?}"))?;
    if status.success() {
        return Ok(ExitCode::SUCCESS);
    }
    match status.code() {
        Some(code) => std::process::exit(code),
        None => bail!("{command:?} ended by {status}"),
    }
}

/// Loading programs and making network namespaces takes root; better said before a long build than after it.
fn need_root(verb: &str) -> anyhow::Result<()> {
    let output = Command::new("id").arg("-u").output().context("cannot run `id -u`")?;
    if output.stdout.trim_ascii() != b"0" {
        bail!("`cargo xtask {verb}` loads eBPF programs and makes network namespaces: run it as root");
    }
    Ok(())
}
