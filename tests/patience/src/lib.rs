//! How tests wait, how they say what they did not test, where they pin, and their network namespaces. Every wait has a
//! limit, that of a wait for a process too; what was waited for is named when it is over. The limit is no measure of
//! anything: it only ends what would never end.

mod namespace;
mod pins;

use std::{
    env,
    fs::OpenOptions,
    io::Write as _,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};

pub use self::{
    namespace::{Namespace, ip, ip_batch},
    pins::pins,
};

/// How long anything may take that a test waits for, on a machine that does a lot besides.
pub const LIMIT: Duration = Duration::from_secs(60);

/// Names the file that [`not_tested`] writes to.
pub const NOT_TESTED: &str = "NARU_NOT_TESTED";

/// Set where a run goes on without what it cannot test.
pub const ALLOW_UNTESTED: &str = "NARU_ALLOW_UNTESTED";

/// Set where the `naru` under test is a release.
pub const RELEASE: &str = "NARU_RELEASE";

/// Between two looks at what is waited for.
const PAUSE: Duration = Duration::from_millis(10);

/// Waits until `condition` holds.
///
/// # Panics
///
/// With `what` when it does not within [`LIMIT`].
pub fn until(what: &str, condition: impl FnMut() -> bool) {
    until_or(what, condition, String::new);
}

/// The same, with more to say if it does not come about.
///
/// # Panics
///
/// With `what` and `more` when it does not within [`LIMIT`].
pub fn until_or(what: &str, mut condition: impl FnMut() -> bool, more: impl FnOnce() -> String) {
    let deadline = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {} s: {what}\n{}", LIMIT.as_secs(), more());
        thread::sleep(PAUSE);
    }
}

/// Runs `command` to its end and captures what it prints.
///
/// # Errors
///
/// When it cannot be started, or was killed for taking longer than [`LIMIT`].
pub fn output(command: &mut Command) -> anyhow::Result<Output> {
    output_within(command, LIMIT)
}

/// The same with another limit.
///
/// # Errors
///
/// As with [`output`].
pub fn output_within(command: &mut Command, limit: Duration) -> anyhow::Result<Output> {
    finish(command.stdin(Stdio::null()), &[], limit)
}

/// Runs `command` with `input` on its standard input.
///
/// # Errors
///
/// As with [`output`].
pub fn fed(command: &mut Command, input: &[u8]) -> anyhow::Result<Output> {
    finish(command.stdin(Stdio::piped()), input, LIMIT)
}

/// Waits for a process that was told to end, or will by itself.
///
/// # Errors
///
/// With `what` when it was killed for not having ended within [`LIMIT`].
pub fn end(what: &str, process: &mut Child) -> anyhow::Result<ExitStatus> {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(status) = process.try_wait()? {
            return Ok(status);
        }
        if Instant::now() >= deadline {
            process.kill()?;
            process.wait()?;
            bail!("{what} did not end within {} s", LIMIT.as_secs());
        }
        thread::sleep(PAUSE);
    }
}

/// What `work` returns, on a thread of its own: for what cannot be asked whether it is ready.
///
/// # Errors
///
/// With `what` when it did not within [`LIMIT`]; the thread is left behind.
pub fn within<R: Send + 'static>(what: &str, work: impl FnOnce() -> R + Send + 'static) -> anyhow::Result<R> {
    let (sender, receiver) = mpsc::channel();
    thread::Builder::new().spawn(move || sender.send(work()))?;
    receiver.recv_timeout(LIMIT).with_context(|| format!("not within {} s: {what}", LIMIT.as_secs()))
}

/// Says that `what` was not tested here, and why. That is no success: without `cargo xtask test --allow-untested`,
/// which collects what is said and says it at its end, the test fails.
///
/// # Panics
///
/// When nobody collects it.
pub fn not_tested(what: &str, why: &str) {
    let collected = env::var_os(NOT_TESTED).filter(|_| env::var_os(ALLOW_UNTESTED).is_some());
    note(&format!("NOT TESTED: {what}: {why}"), collected.as_deref().map(Path::new));
}

/// The same of what this machine's kernel was built without: `cargo xtask test` names it at its end, and passes.
///
/// # Panics
///
/// When nobody collects it.
pub fn not_built(what: &str, option: &str) {
    let line = format!("NOT TESTED: {what}: this kernel was built without {option}");
    note(&line, env::var_os(NOT_TESTED).as_deref().map(Path::new));
}

/// Whether the `naru` under test has places to fail at (`lb_userspace::fault`). Where it has not, says that `what` is
/// not tested.
///
/// # Panics
///
/// As [`not_tested`].
pub fn has_faults(what: &str) -> bool {
    let has_faults = env::var_os(RELEASE).is_none();
    if !has_faults {
        not_tested(what, "a release has no places to fail at");
    }
    has_faults
}

fn note(line: &str, collected: Option<&Path>) {
    let Some(path) = collected else {
        panic!("{line}; `cargo xtask test --allow-untested` goes on without, and says so at its end")
    };
    eprintln!("{line}");
    let file = OpenOptions::new().append(true).create(true).open(path);
    file.and_then(|mut file| writeln!(file, "{line}")).expect("what was not tested can be noted");
}

/// Runs `command`, whose standard input is set up, in a process group of its own, so that nothing of it is left.
fn finish(command: &mut Command, input: &[u8], limit: Duration) -> anyhow::Result<Output> {
    let command = command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = command.spawn().with_context(|| format!("cannot run {command:?}"))?;
    let pid = Pid::from_raw(child.id().cast_signed());
    let (stdin, input) = (child.stdin.take(), input.to_owned());
    let (sender, receiver) = mpsc::channel();
    // Both at once, or either end of the command may wait for the other.
    thread::spawn(move || stdin.map(|mut stdin| stdin.write_all(&input)));
    // Nobody receives it after the limit.
    thread::spawn(move || sender.send(child.wait_with_output()));
    match receiver.recv_timeout(limit) {
        Ok(output) => output.with_context(|| format!("cannot wait for {command:?}")),
        Err(_) => {
            // Not waited for yet, so the pid is still its own.
            kill(pid, Signal::SIGKILL)?;
            let _ = killpg(pid, Signal::SIGKILL);
            bail!("{command:?} did not end within {} s", limit.as_secs_f64())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(200);

    #[test]
    fn a_command_that_hangs_is_named_and_killed_with_what_it_started() {
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 4711 & wait"]);
        let error = output_within(&mut command, SHORT).unwrap_err().to_string();
        assert!(error.contains("sleep 4711") && error.ends_with("did not end within 0.2 s"), "{error}");
        let is_left = || Command::new("pgrep").args(["-f", "^sleep 4711"]).output().unwrap().status.success();
        until("nothing is left of it", || !is_left());
    }

    #[test]
    fn what_is_fed_comes_out() {
        let input = vec![b'x'; 1 << 20];
        assert_eq!(fed(&mut Command::new("cat"), &input).unwrap().stdout, input);
        assert!(fed(&mut Command::new("true"), &input).unwrap().status.success());
    }

    #[test]
    fn what_is_not_tested_is_no_success() {
        assert!(std::panic::catch_unwind(|| note("NOT TESTED: this: that", None)).is_err());
        let path = env::temp_dir().join(format!("naru-not-tested-{}", std::process::id()));
        for what in ["this", "that"] {
            note(what, Some(&path));
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "this\nthat\n");
        std::fs::remove_file(path).unwrap();
    }
}
