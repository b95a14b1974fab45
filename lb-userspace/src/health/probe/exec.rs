//! Starts a program that finds out whether the backend works: exit status 0 is good.
//!
//! Who attacks: a program that hangs, forks or writes without an end. It and what it started (its process group) are
//! killed at the timeout, and when it ends. It may write 64 KiB, to a pipe and to no file. It has no privileges, and
//! limits; as root's it could still remove root's files and end root's processes, the daemon among them: Landlock takes
//! that from it, where the kernel has it (5.13; 6.12 for processes). Its permit is kept until the kernel has done away with it: however many hang, no more are started. A program
//! that leaves its process group (`setsid`) is not found again.

use std::{
    io::{self, PipeReader, PipeWriter},
    os::{fd::AsFd as _, unix::process::ExitStatusExt as _},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use caps::CapSet;
use landlock::{
    ABI, Access as _, AccessFs, PathBeneath, PathFd, Ruleset, RulesetAttr as _, RulesetCreated,
    RulesetCreatedAttr as _, Scope,
};
use nix::{
    errno::Errno,
    sys::{
        prctl,
        resource::{Resource, setrlimit},
        signal::{Signal, killpg},
    },
    unistd::Pid,
};
use tokio::{
    io::AsyncReadExt as _,
    net::unix::pipe,
    process::{Child, Command},
    runtime::Handle,
    sync::OwnedSemaphorePermit,
    task::spawn_blocking,
};

use super::question::{Failure, Question};
use crate::model::Program;

/// So much of a line is told, in bytes.
const TOLD: usize = 200;

/// So much is read, in bytes: whoever writes more waits.
const LONGEST: usize = 64 << 10;

/// Where programs find others.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Limits, but for that of CPU time. That of processes does not hold for root.
const LIMITS: [(Resource, u64); 4] = [
    (Resource::RLIMIT_AS, 256 << 20),
    (Resource::RLIMIT_NOFILE, 64),
    (Resource::RLIMIT_CORE, 0),
    (Resource::RLIMIT_FSIZE, 0),
];

/// Runs it to its end.
pub async fn run(
    question: &Question,
    program: &Program,
    permit: Option<OwnedSemaphorePermit>,
    stage: &mut &'static str,
) -> Result<(), Failure> {
    *stage = "starting the program";
    let unsent = |error: io::Error| Failure::Unsent(format!("cannot start {}: {error}", program.path()));
    let (reads, writes) = io::pipe().map_err(unsent)?;
    let command = command(question, program, writes).map_err(unsent)?;
    // Elsewhere: a disk that hangs holds up who starts a program that is on it.
    let started = spawn_blocking(move || Running::start(command, permit)).await;
    let mut running = started.map_err(io::Error::from).flatten().map_err(unsent)?;
    *stage = "waiting for the program to end";
    let (status, line) = running.end(reads).await.map_err(unsent)?;
    let what = match (status.code(), status.signal().map(Signal::try_from)) {
        (Some(0), _) => return Ok(()),
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(Ok(signal))) => format!("ended by {signal}"),
        (None, _) => "ended by a signal".to_owned(),
    };
    Err(Failure::Answer(if line.is_empty() { what } else { format!("{what}: {line}") }))
}

fn command(question: &Question, program: &Program, writes: PipeWriter) -> io::Result<Command> {
    let mut command = Command::new(program.path());
    command.args(program.command.iter().skip(1)).current_dir("/").process_group(0);
    let backend = question.to.destination().ip();
    command.env_clear().env("PATH", PATH).env("NARU_BACKEND", backend.to_string());
    // What VIPs share does not speak of one of them.
    if question.vip != backend {
        command.env("NARU_VIP", question.vip.to_string());
    }
    if question.to.destination().port() != 0 {
        command.env("NARU_PORT", question.to.destination().port().to_string());
    }
    command.stdin(Stdio::null()).stdout(writes.try_clone()?).stderr(writes);
    let (timeout, mut ruleset) = (question.timeout, Some(ruleset()?));
    // SAFETY: it makes system calls and nothing else: it allocates nothing and takes no lock, but where it fails.
    unsafe { command.pre_exec(move || confine(timeout, ruleset.take())) };
    Ok(command)
}

/// What a program may do to files, read and run them, and to whom it may send signals, to what it starts itself. As far as
/// the kernel can see to that.
fn ruleset() -> io::Result<RulesetCreated> {
    const KNOWN: ABI = ABI::V6;
    let create = || {
        let all = Ruleset::default().handle_access(AccessFs::from_all(KNOWN))?.scope(Scope::Signal)?.create()?;
        let all = all.add_rule(PathBeneath::new(PathFd::new("/")?, AccessFs::from_read(KNOWN)))?;
        let null = PathBeneath::new(PathFd::new("/dev/null")?, AccessFs::ReadFile | AccessFs::WriteFile);
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(all.add_rule(null)?)
    };
    create().map_err(io::Error::other)
}

/// What this process gives up before it becomes the program.
fn confine(timeout: Duration, ruleset: Option<RulesetCreated>) -> io::Result<()> {
    for (resource, most) in LIMITS {
        setrlimit(resource, most, most)?;
    }
    let seconds = timeout.as_secs() + 2;
    setrlimit(Resource::RLIMIT_CPU, seconds, seconds)?;
    // What the daemon has open goes with it anyway; what it was started with might not.
    // SAFETY: it has no pointers, and no file is closed before this process becomes another.
    let result = unsafe { libc::close_range(3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC as libc::c_int) };
    Errno::result(result)?;
    prctl::set_no_new_privs()?;
    for set in [CapSet::Ambient, CapSet::Effective, CapSet::Inheritable, CapSet::Permitted] {
        caps::clear(None, set).map_err(|_| io::ErrorKind::PermissionDenied)?;
    }
    ruleset.map(RulesetCreated::restrict_self).transpose().map_err(|_| io::ErrorKind::PermissionDenied)?;
    Ok(())
}

/// A program that runs, or has just ended. It does not outlive this.
struct Running {
    /// It and what it starts, by the id of their group.
    group: Option<Pid>,
    child: Option<(Child, Option<OwnedSemaphorePermit>)>,
    runtime: Handle,
}

impl Running {
    fn start(mut command: Command, permit: Option<OwnedSemaphorePermit>) -> io::Result<Self> {
        let child = command.spawn()?;
        let group = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
        Ok(Self { group, child: Some((child, permit)), runtime: Handle::current() })
    }

    /// Its exit status, and the first line that it wrote.
    async fn end(&mut self, reads: PipeReader) -> io::Result<(ExitStatus, String)> {
        let mut reads = pipe::Receiver::from_owned_fd(reads.into())?;
        let (child, _) = self.child.as_mut().ok_or(io::ErrorKind::NotFound)?;
        let (mut written, mut part) = (Written::default(), [0; 4096]);
        let status = loop {
            tokio::select! {
                status = child.wait() => break status?,
                len = reads.read(&mut part), if written.goes_on() => written.note(&part[..len.unwrap_or(0)]),
            }
        };
        // Not to the end: another process may have the pipe.
        while written.goes_on() {
            let len = nix::unistd::read(reads.as_fd(), &mut part).unwrap_or(0);
            written.note(&part[..len]);
        }
        Ok((status, written.line()))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(group) = self.group {
            // Where the program has ended and nothing else is in its group, there is none. Its number goes round before it
            // is given to another.
            let _ = killpg(group, Signal::SIGKILL);
        }
        if let Some((mut child, permit)) = self.child.take() {
            self.runtime.spawn(async move {
                let _ = child.wait().await;
                drop(permit);
            });
        }
    }
}

/// What a program wrote: of that, its first line.
#[derive(Default)]
struct Written {
    line: Vec<u8>,
    has_line: bool,
    len: usize,
    has_ended: bool,
}

impl Written {
    fn goes_on(&self) -> bool {
        !self.has_ended && self.len < LONGEST
    }

    /// The next part of it; where that is empty it has ended.
    fn note(&mut self, part: &[u8]) {
        self.has_ended = part.is_empty();
        self.len += part.len();
        if !self.has_line {
            let end = part.iter().position(|byte| *byte == b'\n');
            self.has_line = end.is_some();
            let room = TOLD - self.line.len();
            self.line.extend_from_slice(&part[..end.unwrap_or(part.len()).min(room)]);
        }
    }

    fn line(&self) -> String {
        let text = String::from_utf8_lossy(&self.line);
        text.trim().chars().map(|part| if part.is_control() { ' ' } else { part }).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Instant};

    use landlock::{CompatLevel, Compatible as _};

    use super::super::{Outcome, ask, fixtures};
    use super::*;
    use crate::model::Check;

    async fn outcome(words: &[&str]) -> Outcome {
        let command = words.iter().map(|word| (*word).to_owned()).collect();
        let server = "127.0.0.1:80".parse().unwrap();
        // Longer than a busy machine takes to start a shell.
        let timeout = Duration::from_secs(2);
        let question = fixtures::question(server, Check::Exec(Program { command }));
        ask(&Question { timeout, ..question }).await
    }

    async fn script(text: &str) -> Outcome {
        outcome(&["/bin/sh", "-c", text, "a name", "an argument"]).await
    }

    fn bad(what: &str) -> Outcome {
        Outcome::Bad(Failure::Answer(what.into()))
    }

    /// Whether the kernel has all that is asked of Landlock.
    fn is_confined() -> bool {
        let all = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
        all.handle_access(AccessFs::from_all(ABI::V6)).and_then(|all| all.scope(Scope::Signal)).is_ok()
    }

    /// Waits until no process has this argument.
    async fn wait_until_gone(argument: &str) {
        let has = |entry: fs::DirEntry| {
            let words = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            words.split(|byte| *byte == 0).any(|word| word == argument.as_bytes())
        };
        let until = Instant::now() + patience::LIMIT;
        while fs::read_dir("/proc").unwrap().flatten().any(has) {
            assert!(Instant::now() < until, "{argument} goes on");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn the_exit_status_is_the_verdict_and_the_first_line_says_why() {
        assert_eq!(outcome(&["/bin/true"]).await, Outcome::Good);
        assert_eq!(script("echo fine; exit 0").await, Outcome::Good);
        assert_eq!(outcome(&["/bin/false"]).await, bad("exit status 1"));
        assert_eq!(script("echo 'replica lags\t7s'; echo more; exit 2").await, bad("exit status 2: replica lags 7s"));
        assert_eq!(script("echo no >&2; exit 3").await, bad("exit status 3: no"));
        assert_eq!(script("kill -9 $$").await, bad("ended by SIGKILL"));
        let long = script("head -c 9000 /dev/zero | tr '\\0' x; exit 1").await;
        assert_eq!(long, bad(&format!("exit status 1: {}", "x".repeat(TOLD))));
        let none = outcome(&["/no/such/program"]).await;
        let Outcome::Void(Failure::Unsent(why)) = none else { panic!("{none:?}") };
        assert!(why.starts_with("cannot start /no/such/program: No such file"), "{why}");
    }

    #[tokio::test]
    async fn a_program_is_told_what_to_ask_and_has_nothing_else() {
        for test in [
            "[ \"$NARU_VIP $NARU_BACKEND $NARU_PORT\" = '192.0.2.1 127.0.0.1 80' ]",
            "[ \"$*\" = 'an argument' ]",
            // What shells set themselves is no part of it.
            "env | grep -v -e ^NARU_ -e ^PATH= -e ^PWD= -e ^OLDPWD= -e ^SHLVL= -e ^_= && exit 1 || exit 0",
            "! read line",
            "[ \"$(pwd)\" = / ]",
            "grep -q 'CapPrm:.0000000000000000' /proc/self/status",
            "grep -q 'CapEff:.0000000000000000' /proc/self/status",
            "grep -q 'NoNewPrivs:.1' /proc/self/status",
            "[ \"$(ulimit -c) $(ulimit -f) $(ulimit -n) $(ulimit -v)\" = '0 0 64 262144' ]",
            "[ \"$(ls /proc/self/fd | tr '\\n' ' ')\" = '0 1 2 3 ' ]",
        ] {
            assert_eq!(script(test).await, Outcome::Good, "{test}");
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        let written = script(&format!("echo text > {}", file.path().display())).await;
        assert!(matches!(written, Outcome::Bad(_)), "{written:?}");
        assert_eq!(fs::read(file.path()).unwrap(), b"");
        if is_confined() {
            let path = file.path().display();
            for text in [format!("rm -f {path}"), format!("mv {path} {path}2"), format!("mkdir {path}2")] {
                assert!(matches!(script(&text).await, Outcome::Bad(_)), "{text}");
            }
            assert!(file.path().exists());
            assert!(matches!(script("kill -0 $PPID").await, Outcome::Bad(_)), "it reaches the daemon");
            assert_eq!(script("sleep 86421 >/dev/null 2>/dev/null & kill $!").await, Outcome::Good);
        } else {
            patience::not_tested(
                "what a program of a probe may do to files and processes",
                "this kernel has no Landlock",
            );
        }
        let greedy = script("head -c 1G /dev/zero | tail -c 512M >/dev/null").await;
        assert!(matches!(greedy, Outcome::Bad(_)), "{greedy:?}");
    }

    #[tokio::test]
    async fn nothing_is_left_of_a_program_that_does_not_end() {
        let silent = Outcome::Bad(Failure::TimedOut("waiting for the program to end"));
        for (text, argument) in [
            ("sleep 86401", "86401"),
            ("sleep 86402 & wait", "86402"),
            ("trap '' TERM HUP INT; (trap '' TERM HUP; sleep 86403) | cat; sleep 86403", "86403"),
            ("yes 86404", "86404"),
            ("sleep 86405 & while :; do echo -n 86405; done", "86405"),
        ] {
            let from = Instant::now();
            assert_eq!(script(text).await, silent, "{text}");
            assert!(from.elapsed() < patience::LIMIT);
            wait_until_gone(argument).await;
        }
    }

    #[tokio::test]
    async fn a_program_has_ended_though_another_has_its_pipe() {
        let from = Instant::now();
        assert_eq!(script("sleep 86411 & exit 0").await, Outcome::Good);
        assert_eq!(script("sleep 86411 & echo no; exit 1").await, bad("exit status 1: no"));
        assert!(from.elapsed() < Duration::from_secs(86411));
        wait_until_gone("86411").await;
    }
}
