//! The real daemon and the real CLI, in a lab.

use std::{
    env,
    fs::{self, File},
    io::{self, Write as _},
    net::IpAddr,
    os::unix::{fs::OpenOptionsExt as _, net::UnixStream, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{Mutex, OnceLock, PoisonError},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow, bail, ensure};
use http_body_util::{BodyExt as _, Empty};
use hyper::{Request, body::Bytes, client::conn::http1::handshake, header};
use hyper_util::rt::TokioIo;
use lb_userspace::api::{client::Client, types::Status};
use nix::{
    sys::{
        resource::{Resource, getrlimit, setrlimit},
        signal::{Signal, kill},
    },
    unistd::Pid,
};
use patience::LIMIT;
use serde::de::DeserializeOwned;
use tokio::{net::TcpStream, time::timeout};

use crate::{
    forwarder::SOURCE6,
    lab::{Host, Lab},
};

/// Where the daemon serves `/metrics`, inside the load balancer's namespace.
pub const METRICS: &str = "127.0.0.1:9100";

/// How long scrapes show the same.
const SHARED: Duration = Duration::from_millis(1100);

/// A daemon on the load balancer of a lab, with config, socket and pins of its own. Dropping it kills the daemon; the
/// lab removes the rest. When a test fails, the daemon's log is printed.
pub struct Naru {
    binary: PathBuf,
    host: Host,
    config: PathBuf,
    socket: PathBuf,
    bpffs: PathBuf,
    state: PathBuf,
    log: PathBuf,
    unit: Option<PathBuf>,
    open_files: Option<u64>,
    process: Option<Child>,
    /// When a scrape shows anything new.
    scraped: Mutex<Option<Instant>>,
}

/// The seed of the flow hash in every lab: that a test is the same each time matters more there than a secret.
const SEED: &str = "6e617275206c6162206e617275206c6162";

impl Naru {
    /// Starts a daemon with `vips`, the part of its config that follows `[node]`. Returns once it serves.
    ///
    /// # Errors
    ///
    /// When it cannot be built or started; with its log when it ends or does not serve in time.
    pub fn start(lab: &Lab, vips: &str) -> anyhow::Result<Self> {
        Self::start_with_config(lab, &Self::node(lab, vips))
    }

    /// A lab with so many backends, and a daemon in it that has begun with these VIPs: the socket listens before the
    /// start is over, and what answers has begun.
    ///
    /// # Errors
    ///
    /// When the lab cannot be built, or as with [`Naru::start`].
    pub fn start_in_a_lab(backends: usize, vips: &str) -> anyhow::Result<(Lab, Self)> {
        let lab = Lab::builder().backends(backends).build()?;
        let naru = Self::start(&lab, vips)?;
        naru.status()?;
        Ok((lab, naru))
    }

    /// The config with `vips`, the part that follows `[node]`.
    pub fn node(lab: &Lab, vips: &str) -> String {
        let interfaces = lab.interfaces();
        format!("[node]\ninterfaces = {interfaces:?}\nmetrics = \"{METRICS}\"\nencap_source6 = \"{SOURCE6}\"\n\n{vips}")
    }

    /// Starts a daemon with the config `text`, with socket, pins and state moved to the lab's places.
    ///
    /// # Errors
    ///
    /// As with [`Naru::start`].
    pub fn start_with_config(lab: &Lab, text: &str) -> anyhow::Result<Self> {
        let mut naru = Self::prepare(lab, text)?;
        naru.restart()?;
        Ok(naru)
    }

    /// Writes a config, but starts no daemon yet.
    ///
    /// # Errors
    ///
    /// When the config has no `[node]` or cannot be written.
    pub fn prepare(lab: &Lab, text: &str) -> anyhow::Result<Self> {
        let naru = Self {
            binary: naru_binary()?.to_owned(),
            host: lab.balancer().clone(),
            config: lab.dir().join("naru.toml"),
            socket: lab.dir().join("naru.sock"),
            bpffs: lab.bpffs().join("naru"),
            state: lab.dir().join("state"),
            log: lab.dir().join("naru.log"),
            unit: None,
            open_files: None,
            process: None,
            scraped: Mutex::default(),
        };
        let seed = lab.dir().join("hash_seed");
        let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&seed)?;
        writeln!(file, "{SEED}")?;
        let places =
            format!("[node]\nsocket = {:?}\nbpffs = {:?}\nhash_seed_file = {seed:?}\n", naru.socket, naru.bpffs);
        ensure!(text.contains("[node]\n"), "the config has no line `[node]`");
        naru.write_config(&text.replacen("[node]\n", &places, 1))?;
        Ok(naru)
    }

    /// Starts the daemon over what the last one left. Returns once it serves.
    ///
    /// # Errors
    ///
    /// As with [`Naru::start`]; also when it runs already.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        self.restart_with(&[])
    }

    /// The same, with `options` for `naru run`.
    ///
    /// # Errors
    ///
    /// As with [`Naru::restart`].
    pub fn restart_with(&mut self, options: &[&str]) -> anyhow::Result<()> {
        self.restart_in(options, &[])
    }

    /// The same, with variables for its environment.
    ///
    /// # Errors
    ///
    /// As with [`Naru::restart`].
    pub fn restart_in(&mut self, options: &[&str], environment: &[(&str, &Path)]) -> anyhow::Result<()> {
        ensure!(self.process.is_none(), "the daemon runs already");
        let log = fs::OpenOptions::new().append(true).create(true).open(&self.log)?;
        let mut run = self.command(&[&["run"], options].concat())?;
        // Not in the config: one that is not whole does not say where it is.
        run.arg("--state-dir").arg(&self.state).envs(environment.iter().copied());
        let mut command = match &self.unit {
            Some(unit) => self.confined(unit, &run)?,
            None => run,
        };
        if let Some(limit) = self.open_files {
            let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
            // SAFETY: between fork and exec this makes one system call and allocates nothing.
            unsafe { command.pre_exec(move || Ok(setrlimit(Resource::RLIMIT_NOFILE, limit.min(hard), hard)?)) };
        }
        // A process group of its own: a kept daemon survives the terminal.
        let process = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0).spawn();
        self.process = Some(process.context("cannot start the daemon")?);
        self.wait_until_serving()
    }

    /// From now on daemons are started with the privileges that this unit of systemd leaves them.
    pub fn confine(&mut self, unit: &Path) {
        self.unit = Some(unit.to_owned());
    }

    /// From now on daemons may have so many files open, and no more.
    pub fn limit_open_files(&mut self, limit: u64) {
        self.open_files = Some(limit);
    }

    /// From now on daemons and commands are those of another build.
    pub fn use_binary(&mut self, binary: &Path) {
        self.binary = binary.to_owned();
    }

    /// Kills the daemon with SIGKILL.
    ///
    /// # Errors
    ///
    /// When it does not run.
    pub fn kill9(&mut self) -> anyhow::Result<()> {
        let mut process = self.process.take().context("the daemon does not run")?;
        process.kill()?;
        process.wait()?;
        Ok(())
    }

    /// Sends the daemon a signal.
    ///
    /// # Errors
    ///
    /// When it does not run.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        Ok(kill(self.pid()?, signal)?)
    }

    /// How the daemon ended, if it has ended by itself.
    ///
    /// # Errors
    ///
    /// When it was not started.
    pub fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        let status = self.process.as_mut().context("the daemon does not run")?.try_wait()?;
        if status.is_some() {
            self.process = None;
        }
        Ok(status)
    }

    /// Asks the daemon to exit (SIGTERM) and waits until it has.
    ///
    /// # Errors
    ///
    /// When it does not run, takes too long, or exits with another code than 0.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        let mut process = self.process.take().context("the daemon does not run")?;
        kill(Pid::from_raw(process.id().cast_signed()), Signal::SIGTERM)?;
        let ended = patience::end("the daemon", &mut process);
        let status = ended.with_context(|| format!("it was told to by SIGTERM\n{}", self.log()))?;
        ensure!(status.success(), "the daemon ended with {status}\n{}", self.log());
        Ok(())
    }

    /// The config file.
    pub fn config_path(&self) -> &Path {
        &self.config
    }

    /// What the config file says now.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub fn config(&self) -> io::Result<String> {
        fs::read_to_string(&self.config)
    }

    /// Writes the config file; the daemon does not notice until `naru apply`.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub fn write_config(&self, text: &str) -> anyhow::Result<()> {
        fs::write(&self.config, text).with_context(|| format!("cannot write {}", self.config.display()))
    }

    /// The directory of its pins.
    pub fn bpffs(&self) -> &Path {
        &self.bpffs
    }

    /// The directory of what it leaves for the next start.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// The file that its log goes to.
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// Everything that daemons of this handle have logged.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// A `naru` command on the load balancer, with this daemon's config and socket.
    ///
    /// # Errors
    ///
    /// When there is no `naru` binary.
    pub fn command(&self, args: &[&str]) -> anyhow::Result<Command> {
        let mut command = self.host.command(&self.binary);
        // The socket as well: a config that is no TOML does not say where it is.
        command.args(args).arg("--config").arg(&self.config).arg("--socket").arg(&self.socket);
        Ok(command)
    }

    /// `command`, as the service that `unit` describes.
    fn confined(&self, unit: &Path, command: &Command) -> anyhow::Result<Command> {
        let directory = self.config.parent().context("the config lies in a directory")?;
        let mut confined = self.host.command(lab_binary()?);
        confined.arg("service").arg("--unit").arg(unit).arg("--directory").arg(directory).arg("--");
        confined.arg(command.get_program()).args(command.get_args());
        Ok(confined)
    }

    /// Runs a `naru` command, however it ends.
    ///
    /// # Errors
    ///
    /// When it cannot be started, or does not end.
    pub fn try_cli(&self, args: &[&str]) -> anyhow::Result<Output> {
        patience::output(&mut self.command(args)?)
    }

    /// Runs a `naru` command; returns what it prints.
    ///
    /// # Errors
    ///
    /// With its message when it exits with another code than 0.
    pub fn cli(&self, args: &[&str]) -> anyhow::Result<String> {
        let output = self.try_cli(args)?;
        let says = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "`naru {}`: {}: {}", args.join(" "), output.status, says.trim());
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Runs a `naru` command with `--output json` and reads its answer, one of [`lb_userspace::api::types`].
    ///
    /// # Errors
    ///
    /// As with [`Naru::cli`]; also when it prints something else.
    pub fn read<T: DeserializeOwned>(&self, args: &[&str]) -> anyhow::Result<T> {
        let text = self.cli(&[args, &["--output", "json"]].concat())?;
        serde_json::from_str(&text).with_context(|| format!("unexpected answer of `naru {}`: {text}", args.join(" ")))
    }

    /// A client of the daemon, for whoever asks often or measures: no command is started.
    pub fn client(&self) -> Client {
        Client::new(&self.socket)
    }

    /// `naru status`.
    ///
    /// # Errors
    ///
    /// As with [`Naru::cli`].
    pub fn status(&self) -> anyhow::Result<Status> {
        self.read(&["status"])
    }

    /// Waits until the data plane is attached to every interface of the config and knows the way to every backend.
    ///
    /// # Errors
    ///
    /// With what is missing when it does not within a minute.
    pub fn wait_until_ready(&self) -> anyhow::Result<()> {
        self.wait_for("every interface is attached and every backend reachable", LIMIT, |naru| {
            let status = naru.status()?;
            let detached = status.interfaces.iter().find(|interface| interface.attached.is_none());
            ensure!(detached.is_none(), "not attached: {detached:?}");
            ensure!(status.unreachable.is_empty(), "not reachable: {:?}", status.unreachable);
            Ok(true)
        })
    }

    /// What `/metrics` serves now. Scrapes within a second show the same, so that this waits if it was asked just
    /// before.
    ///
    /// # Errors
    ///
    /// When nothing answers there.
    pub fn metrics(&self) -> anyhow::Result<String> {
        let mut fresh = self.scraped.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(fresh) = *fresh {
            sleep(fresh.saturating_duration_since(Instant::now()));
        }
        *fresh = Some(Instant::now() + SHARED);
        drop(fresh);
        let scrape = async {
            let stream = TcpStream::connect(METRICS).await.context("nobody serves /metrics")?;
            let (mut sender, connection) = handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            let request = Request::get("/metrics").header(header::HOST, METRICS).body(Empty::<Bytes>::new())?;
            let response = sender.send_request(request).await?;
            ensure!(response.status().is_success(), "/metrics answers {}", response.status());
            Ok(String::from_utf8(response.into_body().collect().await?.to_bytes().into())?)
        };
        self.host.block_on(|| async { timeout(LIMIT, scrape).await.context("/metrics does not answer")? })
    }

    /// The value of the metric `name` with exactly these labels, in any order.
    ///
    /// # Errors
    ///
    /// When `/metrics` has no such sample.
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> anyhow::Result<f64> {
        let text = self.metrics()?;
        let value = text.lines().find_map(|line| sample(line, name, labels));
        value.with_context(|| format!("no sample {name} {labels:?} in:\n{text}"))
    }

    /// Waits until `condition` holds.
    ///
    /// # Errors
    ///
    /// With `what` and the last error of the condition when it does not within `limit`.
    pub fn wait_for(
        &self,
        what: &str,
        limit: Duration,
        mut condition: impl FnMut(&Self) -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            let last = condition(self);
            if matches!(last, Ok(true)) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let reason = last.err().unwrap_or_else(|| anyhow!("it does not"));
                return Err(reason.context(format!("waited {:.0} s until {what}", limit.as_secs_f64())));
            }
            sleep(Duration::from_millis(20));
        }
    }

    /// The process id of the daemon.
    ///
    /// # Errors
    ///
    /// When it does not run.
    pub fn pid(&self) -> anyhow::Result<Pid> {
        let process = self.process.as_ref().context("the daemon does not run")?;
        Ok(Pid::from_raw(process.id().cast_signed()))
    }

    /// Memory of the daemon in bytes, by its name in `/proc/PID/status`: `VmRSS` is what is resident now, `VmHWM` the
    /// most that ever was.
    ///
    /// # Errors
    ///
    /// When it does not run, or there is no such line.
    pub fn memory(&self, name: &str) -> anyhow::Result<u64> {
        let text = fs::read_to_string(format!("/proc/{}/status", self.pid()?))?;
        let mut lines = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let kilobytes = lines.next().and_then(|rest| rest.trim().strip_suffix(" kB"));
        let kilobytes: u64 = kilobytes.with_context(|| format!("no {name} in the status of the daemon"))?.parse()?;
        Ok(kilobytes * 1024)
    }

    /// Leaves the daemon running without this handle.
    pub fn keep(mut self) {
        self.process = None;
    }

    fn wait_until_serving(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + LIMIT;
        loop {
            if let Some(status) = self.process.as_mut().expect("the daemon was started").try_wait()? {
                self.process = None;
                bail!("the daemon ended with {status} instead of serving:\n{}", self.log());
            }
            if UnixStream::connect(&self.socket).is_ok() {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "the daemon does not serve:\n{}", self.log());
            sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Naru {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of naru ---\n{}--- end ---", self.log());
        }
        if self.process.is_some() {
            // It may have died on its own; then there is nothing to end.
            let _ = self.kill9();
        }
    }
}

/// Takes the encapsulation off packets on `eth0` of a backend, by `naru decap attach`, until the lab goes.
///
/// # Errors
///
/// With the command's message when it fails.
pub fn attach_decap(lab: &Lab, backend: &Host) -> anyhow::Result<()> {
    attach_decap_to(lab, backend, &[backend.ipv4().into(), backend.ipv6().into()])
}

/// The same of packets whose outer destination is one of these.
///
/// # Errors
///
/// As [`attach_decap`].
pub fn attach_decap_to(lab: &Lab, backend: &Host, destinations: &[IpAddr]) -> anyhow::Result<()> {
    let mut command = backend.command(naru_binary()?);
    command.args(["decap", "attach", "eth0", "--from", "172.16.0.0/16", "--from", SOURCE6]);
    command.args(destinations.iter().map(|destination| format!("--to={destination}")));
    let output = patience::output(command.arg("--bpffs").arg(lab.bpffs().join(backend.name())))?;
    let says = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "`naru decap attach` on {}: {}", backend.name(), says.trim());
    Ok(())
}

/// The `naru` binary: `NARU_BIN` if set, else that of this build, brought up to date by cargo.
///
/// # Errors
///
/// When cargo cannot build it, or there is none.
pub fn naru_binary() -> anyhow::Result<&'static Path> {
    static BINARY: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let binary = BINARY.get_or_init(|| named_by("NARU_BIN", "naru"));
    binary.as_deref().map_err(|error| anyhow!("{error}"))
}

/// The `naru` binary of the version before this one, `NARU_BEFORE_BIN`: `cargo xtask test` builds it.
pub fn naru_binary_before() -> Option<PathBuf> {
    env::var_os("NARU_BEFORE_BIN").map(PathBuf::from)
}

/// The `naru-lab` binary: this one if it is, else `NARU_LAB_BIN` if set, else that of this build.
///
/// # Errors
///
/// When cargo cannot build it, or there is none.
pub fn lab_binary() -> anyhow::Result<&'static Path> {
    static BINARY: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let binary = BINARY.get_or_init(|| match env::current_exe() {
        Ok(own) if own.file_stem().is_some_and(|name| name == "naru-lab") => Ok(own),
        _ => named_by("NARU_LAB_BIN", "naru-lab"),
    });
    binary.as_deref().map_err(|error| anyhow!("{error}"))
}

/// The binary that a variable names, else the one that cargo builds.
fn named_by(variable: &str, binary: &str) -> Result<PathBuf, String> {
    match env::var_os(variable) {
        Some(path) => Ok(path.into()),
        None => built(binary).map_err(|error| format!("{error:#}")),
    }
}

/// Builds `binary` of `package` into the target directory and profile of this executable.
fn built(binary: &str) -> anyhow::Result<PathBuf> {
    let own = env::current_exe()?;
    let dir = own.parent().context("an executable lies in a directory")?;
    let dir = if dir.ends_with("deps") { dir.parent().context("`deps` lies in a directory")? } else { dir };
    let path = dir.join(binary);
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("this crate lies in a workspace")?;
    if !workspace.join("Cargo.toml").exists() {
        ensure!(path.exists(), "there is no {}, and no workspace to build it from: set NARU_BIN", path.display());
        return Ok(path);
    }
    let profile = match dir.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(name) => name,
    };
    let target = dir.parent().context("a profile's directory lies in the target directory")?;
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // All packages, so that cargo settles on the features that the tests were built with and builds nothing twice.
    cargo.args(["build", "--workspace", "--bin", binary, "--profile", profile]);
    let output = cargo.arg("--target-dir").arg(target).current_dir(workspace).output().context("cannot run cargo")?;
    ensure!(output.status.success(), "cannot build {binary}:\n{}", String::from_utf8_lossy(&output.stderr));
    Ok(path)
}

/// The value of an OpenMetrics sample line, if it is that of `name` with `labels`.
fn sample(line: &str, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let rest = line.strip_prefix(name)?;
    let (have, value) = match rest.strip_prefix('{') {
        Some(rest) => rest.split_once("} ")?,
        None => ("", rest.strip_prefix(' ')?),
    };
    let mut have: Vec<_> = have.split(',').filter(|label| !label.is_empty()).map(str::to_owned).collect();
    let mut want: Vec<_> = labels.iter().map(|(key, value)| format!("{key}=\"{value}\"")).collect();
    have.sort();
    want.sort();
    (have == want).then(|| value.split(' ').next()?.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_found_by_name_and_labels() {
        let line = r#"naru_backend_packets_total{vip="web",backend="10.0.1.11"} 42"#;
        let labels = [("backend", "10.0.1.11"), ("vip", "web")];
        assert_eq!(sample(line, "naru_backend_packets_total", &labels), Some(42.0));
        assert_eq!(sample(line, "naru_backend_packets", &labels), None);
        assert_eq!(sample(line, "naru_backend_packets_total", &labels[..1]), None);
        assert_eq!(sample("naru_up 1 1700000000", "naru_up", &[]), Some(1.0));
    }
}
