//! The real daemon and the real CLI against the real kernel, each test in a network namespace, a bpffs directory and a
//! socket of its own. No packet is sent: that is the lab's business. Needs root.

use std::{
    env, fs,
    io::{ErrorKind, Read as _, Write as _},
    net::TcpStream,
    os::unix::{fs::PermissionsExt as _, net::UnixStream, process::ExitStatusExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use aya::maps::{Array, Map, MapData};
use lb_common::{ABI, Backend, Layout, NO_ID, NextHopCell, maps};
use nix::{
    mount::{MsFlags, mount, umount},
    sched::{CloneFlags, unshare},
    sys::{
        signal::{Signal, kill},
        stat::Mode,
    },
    unistd::{Pid, mkfifo},
};
use patience::{LIMIT, Namespace, ip};
use serde_json::Value;

const VIPS: &str = r#"
# The shop.
[[vip]]
name = "web"
address = "203.0.113.10"
ports = ["tcp/80", "tcp/443"]
forward = "ipip"
health = "none"
backends = [
  { address = "10.0.1.11", weight = 100 }, # rack 1
  { address = "10.0.1.12", weight = 100 }, # rack 2
]
"#;

/// A seed of the flow hash, and its fingerprint.
const SEED: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\n";
const FINGERPRINT: &str = "4c5b9787";

/// The binary under test: `NARU_BIN` if set, else that of this build.
fn naru() -> PathBuf {
    env::var_os("NARU_BIN").map_or_else(|| env!("CARGO_BIN_EXE_naru").into(), PathBuf::from)
}

/// A daemon's world: a network namespace with one veth pair, and a directory.
struct Bed {
    dir: tempfile::TempDir,
    bpffs: PathBuf,
    metrics_port: u16,
    daemon: Option<Child>,
}

/// How a command ended and what it said.
struct Said {
    code: i32,
    out: String,
    err: String,
}

impl Bed {
    /// Takes this thread into a network namespace of its own and writes a config with one attached interface.
    fn new(vips: &str) -> Self {
        Namespace::unshare();
        ip("link set lo up");
        make_veth();
        let bed = Self { dir: tempfile::tempdir().unwrap(), bpffs: patience::pins(), metrics_port: 9100, daemon: None };
        fs::create_dir(bed.dir.path().join("etc")).unwrap();
        fs::create_dir(bed.faults()).unwrap();
        bed.write_seed(SEED);
        bed.write(&format!("{}{vips}", bed.node("\"lb0\"")));
        bed
    }

    fn node(&self, interfaces: &str) -> String {
        let (socket, bpffs, port) = (self.socket(), self.bpffs.display(), self.metrics_port);
        let socket = socket.display();
        format!(
            "[node]\ninterfaces = [{interfaces}]\nsocket = \"{socket}\"\nbpffs = \"{bpffs}\"\n\
             metrics = \"127.0.0.1:{port}\"\nstate = \"{}\"\nhash_seed_file = \"{}\"\n",
            self.state().display(),
            self.seed().display()
        )
    }

    fn seed(&self) -> PathBuf {
        self.dir.path().join("etc/hash_seed")
    }

    fn write_seed(&self, text: &str) {
        fs::write(self.seed(), text).unwrap();
        fs::set_permissions(self.seed(), fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("naru.sock")
    }

    fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("etc/naru.toml")
    }

    fn faults(&self) -> PathBuf {
        self.dir.path().join("faults")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    fn read(&self) -> String {
        fs::read_to_string(self.file()).unwrap()
    }

    fn write(&self, text: &str) {
        fs::write(self.file(), text).unwrap();
    }

    fn replace(&self, from: &str, to: &str) {
        let text = self.read();
        assert!(text.contains(from), "{from} is not in\n{text}");
        self.write(&text.replace(from, to));
    }

    fn command(&self) -> Command {
        let mut command = Command::new(naru());
        command.env("NARU_CONFIG", self.file()).env_remove("NARU_SOCKET").env_remove("RUST_LOG");
        command
    }

    /// Starts the daemon. It fails where a test says so in [`Self::faults`].
    fn launch(&mut self, arguments: &[&str]) {
        let log = fs::File::options().create(true).append(true).open(self.dir.path().join("log")).unwrap();
        let mut command = self.command();
        command.arg("run").args(arguments).env("NARU_FAULTS", self.faults());
        self.daemon = Some(command.stderr(log).stdout(Stdio::null()).spawn().unwrap());
    }

    /// Starts the daemon and waits until it serves.
    fn start(&mut self, arguments: &[&str]) {
        self.launch(arguments);
        eventually("the daemon serves", || self.naru("status").code == 0, || self.log());
    }

    fn signal(&self, signal: Signal) {
        let pid = self.daemon.as_ref().expect("a daemon was started").id();
        kill(Pid::from_raw(pid.try_into().unwrap()), signal).unwrap();
    }

    /// Ends the daemon by a signal; its exit code, or that of the signal with a minus.
    fn end(&mut self, signal: Signal) -> i32 {
        self.signal(signal);
        let mut daemon = self.daemon.take().expect("a daemon was started");
        let status = patience::end("the daemon", &mut daemon).unwrap_or_else(|error| panic!("{error}\n{}", self.log()));
        status.code().unwrap_or_else(|| -status.signal().unwrap())
    }

    /// Runs a command to its end.
    fn naru(&self, line: &str) -> Said {
        let output = patience::output(self.command().args(line.split(' '))).unwrap();
        let [out, err] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        Said { code: output.status.code().unwrap(), out, err }
    }

    /// Runs a command that must succeed.
    fn done(&self, line: &str) -> String {
        let Said { code, out, err } = self.naru(line);
        assert_eq!(code, 0, "naru {line}: {out}{err}\n{}", self.log());
        out
    }

    /// Runs a command that must fail like this.
    fn refused(&self, line: &str, code: i32, message: &str) {
        let said = self.naru(line);
        assert_eq!(said.code, code, "naru {line}: {}{}", said.out, said.err);
        assert!(said.err.contains(message), "naru {line}: {}", said.err);
    }

    fn json(&self, line: &str) -> Value {
        serde_json::from_str(&self.done(&format!("{line} --output json"))).unwrap()
    }

    fn backend(&self, address: &str) -> Value {
        let backends = self.json("backend list web");
        let backends = backends.as_array().unwrap();
        backends.iter().find(|backend| backend["address"] == address).expect("it is a backend of web").clone()
    }

    /// The raw answer of the API to a raw request.
    fn raw(&self, request: &str) -> String {
        let mut stream = UnixStream::connect(self.socket()).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// Whether somebody listens where `/metrics` is to be.
    fn has_metrics(&self) -> bool {
        TcpStream::connect(("127.0.0.1", self.metrics_port)).is_ok()
    }

    /// Waits until so many problems of a kind are told by `/metrics`.
    fn wait_for_problems(&self, kind: &str, count: u32) {
        eventually("metrics are served", || self.has_metrics(), || self.log());
        let reported = format!("naru_problems{{kind=\"{kind}\"}} {count}\n");
        eventually(&reported, || self.scrape().contains(&reported), || format!("{}{}", self.scrape(), self.log()));
    }

    fn scrape(&self) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.metrics_port)).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        // The older version, whose answers come in one piece.
        stream.write_all(b"GET /metrics HTTP/1.0\r\nHost: x\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        self.naru("interface detach --all");
        let _ = fs::remove_dir(&self.bpffs);
    }
}

/// `lb0` with a peer, in a network whose neighbour 10.0.1.11 is known for ever and 10.0.1.12 never answers.
fn make_veth() {
    ip("link add lb0 type veth peer name peer0");
    ip("link set lb0 up");
    ip("link set peer0 up");
    ip("addr add 10.0.1.1/24 dev lb0");
    ip("neigh replace 10.0.1.11 lladdr 02:00:00:00:00:11 dev lb0 nud permanent");
}

/// Whether an XDP program runs on the interface, as the kernel has it.
fn attached(interface: &str) -> bool {
    let mut ip = Command::new("ip");
    let output = patience::output(ip.args(["-details", "link", "show", "dev", interface])).unwrap();
    String::from_utf8_lossy(&output.stdout).contains("prog/xdp")
}

fn eventually(what: &str, is: impl FnMut() -> bool, more: impl FnOnce() -> String) {
    patience::until_or(what, is, more);
}

fn path_exists(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

#[test]
#[ignore = "needs root"]
fn reads_show_what_runs() {
    let mut bed = Bed::new(VIPS);
    bed.start(&[]);
    let status = bed.json("status");
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(status["pid"], bed.daemon.as_ref().unwrap().id());
    assert_eq!(status["config"]["file"]["state"], "applied");
    assert_eq!((&status["vips"], &status["backends"]), (&1.into(), &2.into()));
    assert_eq!(status["interfaces"][0]["name"], "lb0");
    assert_eq!(status["interfaces"][0]["attached"]["mode"], "native");
    assert!(status["map_memory_bytes"].as_u64().unwrap() > 1 << 20, "{status}");
    assert_eq!(status["unreachable"][0]["address"], "10.0.1.12");

    assert_eq!(bed.backend("10.0.1.11")["next_hop"]["mac"], "02:00:00:00:00:11");
    assert_eq!(bed.backend("10.0.1.11")["next_hop"]["interface"], "lb0");
    assert!(bed.backend("10.0.1.12")["next_hop"]["reason"].as_str().unwrap().contains("10.0.1.12"));
    let slots = |address| bed.backend(address)["slots"].as_u64().unwrap();
    assert_eq!(slots("10.0.1.11") + slots("10.0.1.12"), 16_381);

    assert!(bed.done("vip show web").contains("tcp/80, tcp/443"));
    bed.refused("vip show wbe", 1, "did you mean `web`?");
    assert!(bed.done("stats").contains("web   (all)"));
    assert_eq!(bed.json("stats")["vips"][0]["backends"][1]["packets"], 0);
    assert!(bed.done("interface list").contains("native"));
}

#[test]
#[ignore = "needs root"]
fn edits_are_applied_and_leave_the_files_comments() {
    let mut bed = Bed::new(VIPS);
    bed.start(&[]);
    let before = bed.read();

    let said = bed.json("backend set web 10.0.1.11 --weight 50");
    assert_eq!(said["changes"].as_array().unwrap().len(), 1, "{said}");
    assert_eq!(bed.read(), before.replace("\"10.0.1.11\", weight = 100", "\"10.0.1.11\", weight = 50"));
    assert_eq!(bed.backend("10.0.1.11")["weight"], 50);

    bed.done("backend drain web 10.0.1.12");
    let drained = bed.backend("10.0.1.12");
    assert_eq!((&drained["state"], &drained["slots"]), (&"drain".into(), &0.into()));
    assert_eq!(bed.backend("10.0.1.11")["slots"], 16_381);

    bed.done("backend restore web 10.0.1.12");
    bed.done("backend set web 10.0.1.12 --state active --weight 1");
    bed.done("backend add web 10.0.1.13 --state down");
    bed.done("backend remove web 10.0.1.11");
    let text = bed.read();
    let lines: Vec<_> = text.lines().skip_while(|line| !line.starts_with("backends")).collect();
    assert_eq!(
        lines,
        [
            "backends = [",
            "  { address = \"10.0.1.12\", weight = 1, state = \"active\" }, # rack 2",
            "  { address = \"10.0.1.13\", state = \"down\" },",
            "]",
        ]
    );
    assert!(text.contains("# The shop."), "{text}");
}

#[test]
#[ignore = "needs root"]
fn vips_come_and_go() {
    let mut bed = Bed::new(VIPS);
    bed.start(&[]);
    bed.done("vip add dns --address 203.0.113.53 --port udp/53 --forward l2 --backend 10.0.1.11=7");
    assert_eq!(bed.json("vip show dns")["backends"][0]["weight"], 7);
    bed.done("vip set dns --port udp/53,tcp/53 --hash source-ip");
    assert_eq!(bed.json("vip show dns")["ports"], serde_json::json!(["udp/53", "tcp/53"]));
    assert_eq!(bed.json("vip show dns")["hash"], "source-ip");
    bed.done("vip remove dns");
    bed.refused("vip show dns", 1, "there is no VIP `dns`");
    assert_eq!(bed.done("diff"), "The file is what runs.\n");
}

#[test]
#[ignore = "needs root"]
fn what_is_refused_changes_nothing() {
    let mut bed = Bed::new(VIPS);
    // What is known of a neighbour that does not answer changes by itself.
    ip("neigh replace 10.0.1.12 lladdr 02:00:00:00:00:12 dev lb0 nud permanent");
    bed.start(&[]);
    let (text, backends) = (bed.read(), bed.json("backend list"));
    for (line, code, message) in [
        ("backend add web 10.0.1.11", 4, "already"),
        ("backend set web 10.0.1.99 --weight 5", 1, "no backend `10.0.1.99`"),
        ("backend set wbe 10.0.1.11 --weight 5", 1, "no VIP is named `wbe`"),
        ("backend set web 10.0.1.11 --weight 70000", 2, "65535"),
        ("backend add web 127.0.0.1", 2, "127.0.0.1"),
        ("vip add more --address 203.0.113.10 --port tcp/80 --forward l2 --backend 10.0.1.11", 2, "tcp/80"),
        ("vip set web --slots 16000", 2, "prime"),
        ("interface attach nope0", 2, "there is no interface nope0 here; there are"),
        ("interface detach nope0", 1, "nope0"),
    ] {
        bed.refused(line, code, message);
        assert_eq!(bed.read(), text, "{line}");
        assert_eq!(bed.json("backend list"), backends, "{line}");
    }
}

#[test]
#[ignore = "needs root"]
fn the_file_is_the_truth() {
    let mut bed = Bed::new(VIPS);
    bed.start(&[]);
    bed.replace("\"10.0.1.11\", weight = 100", "\"10.0.1.11\", weight = 60");
    let diff = bed.naru("diff");
    assert_eq!((diff.code, diff.out.as_str()), (1, "vip web: backend 10.0.1.11 weight 100 → 60\n"));
    assert_eq!(bed.json("status")["config"]["file"]["state"], "changed");
    bed.refused("backend set web 10.0.1.12 --state drain", 4, "has changes that are not applied");
    bed.done("apply");
    assert_eq!(bed.backend("10.0.1.11")["weight"], 60);
    assert_eq!(bed.naru("diff").code, 0);
    assert_eq!(bed.json("apply")["writes"], 0, "the same again writes nothing");

    bed.replace("weight = 60", "weigth = 60");
    for line in ["diff", "apply", "check"] {
        bed.refused(line, 2, "naru.toml:");
        bed.refused(line, 2, "did you mean `weight`?");
    }
    assert_eq!(bed.json("status")["config"]["file"]["state"], "invalid");
    assert_eq!(bed.backend("10.0.1.11")["weight"], 60);

    bed.replace("weigth = 60", "weight = 70");
    bed.signal(Signal::SIGHUP);
    eventually("SIGHUP applies", || bed.backend("10.0.1.11")["weight"] == 70, || bed.log());
}

#[test]
#[ignore = "needs root"]
fn comments_and_order_are_no_differences() {
    let mut bed = Bed::new(VIPS);
    bed.start(&[]);
    let text = bed.read();
    let [one, two] = [
        "  { address = \"10.0.1.11\", weight = 100 }, # rack 1\n",
        "  { address = \"10.0.1.12\", weight = 100 }, # rack 2\n",
    ];
    let swapped = text.replace(&format!("{one}{two}"), &format!("{two}{one}# and a comment\n"));
    assert_ne!(swapped, text);
    bed.write(&swapped);
    assert_eq!(bed.naru("diff").code, 0);
    bed.done("backend set web 10.0.1.12 --state drain");
    assert!(bed.read().contains("# and a comment"));
}

#[test]
#[ignore = "needs root"]
fn a_file_that_cannot_be_written_leaves_what_ran() {
    let mut bed = Bed::new(VIPS);
    let (text, directory) = (bed.read(), bed.file().parent().unwrap().to_owned());
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    let mount_on =
        |source: Option<&str>, on: &Path, kind: Option<&str>, flags| mount(source, on, kind, flags, None::<&str>);
    mount_on(None, Path::new("/"), None, MsFlags::MS_PRIVATE | MsFlags::MS_REC).unwrap();
    mount_on(Some("tmpfs"), &directory, Some("tmpfs"), MsFlags::empty()).unwrap();
    bed.write(&text);
    bed.start(&[]);
    mount_on(None, &directory, None, MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY).unwrap();

    let said = bed.naru("backend set web 10.0.1.12 --state drain");
    assert_eq!(said.code, 4, "{}{}", said.out, said.err);
    assert!(said.err.contains("cannot write") && said.err.contains("nothing was changed"), "{}", said.err);
    assert_eq!(bed.read(), text);
    assert_eq!(bed.backend("10.0.1.12")["state"], "active");
    assert!(bed.backend("10.0.1.12")["slots"].as_u64().unwrap() > 0);
    umount(&directory).unwrap();
}

#[test]
#[ignore = "needs root"]
fn the_data_plane_outlives_the_daemon() {
    let mut bed = Bed::new(VIPS);
    bed.start(&[]);
    assert_eq!(bed.end(Signal::SIGKILL), -9);
    assert!(attached("lb0"));
    bed.refused("status", 3, "no daemon answers at");
    bed.start(&[]);
    assert!(bed.log().lines().rfind(|line| line.contains("applied")).unwrap().contains("writes 0"), "{}", bed.log());
    assert_eq!(bed.end(Signal::SIGTERM), 0);
    assert!(attached("lb0"));
    assert!(!path_exists(&bed.socket()));
    assert_eq!(bed.done("interface detach lb0"), "interface lb0: detached\n");
    assert!(!attached("lb0"));
    bed.refused("interface detach lb0", 1, "not attached");
}

#[test]
#[ignore = "needs root"]
fn detach_on_exit_leaves_nothing() {
    let mut bed = Bed::new(VIPS);
    bed.start(&["--detach-on-exit"]);
    assert!(attached("lb0") && path_exists(&bed.bpffs));
    assert_eq!(bed.end(Signal::SIGINT), 0);
    assert!(!attached("lb0"));
    let left = match fs::read_dir(&bed.bpffs) {
        Ok(entries) => entries.map(|entry| entry.unwrap().path()).collect::<Vec<_>>(),
        Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
        Err(error) => panic!("{error}"),
    };
    assert!(left.is_empty(), "{left:?}");
}

#[test]
#[ignore = "needs root"]
fn a_second_daemon_is_refused() {
    let mut bed = Bed::new(VIPS);
    bed.start(&[]);
    let pid = bed.daemon.as_ref().unwrap().id();
    bed.refused("run", 4, &format!("process {pid}"));
    // Another data plane, the same socket.
    let other = format!("{}-other", bed.bpffs.display());
    bed.refused(&format!("run --bpffs {other}"), 4, "another daemon answers at");
    let _ = fs::remove_dir_all(&other);
    assert_eq!(bed.json("status")["pid"], pid);
    assert_eq!(fs::metadata(bed.socket()).unwrap().permissions().mode() & 0o777, 0o660);
}

#[test]
#[ignore = "needs root"]
fn interfaces_may_come_late_go_and_return() {
    let mut bed = Bed::new(VIPS);
    ip("link del lb0");
    bed.start(&[]);
    assert!(bed.log().contains("there is no interface lb0"), "{}", bed.log());
    bed.refused("check", 2, "there is no lb0 here");
    assert_eq!(bed.json("interface list")[0]["attached"], Value::Null);
    for _ in 0..2 {
        make_veth();
        eventually("lb0 is attached", || attached("lb0"), || bed.log());
        ip("link del lb0");
        eventually("lb0 is missed", || bed.json("interface list")[0]["link"] == Value::Null, || bed.log());
    }
    make_veth();
    eventually("the way is found again", || bed.backend("10.0.1.11")["next_hop"]["interface"] == "lb0", || bed.log());
}

#[test]
#[ignore = "needs root"]
fn interfaces_are_attached_and_detached_by_command() {
    let mut bed = Bed::new(VIPS);
    bed.start(&[]);
    bed.done("interface attach peer0");
    assert!(attached("peer0") && bed.read().contains("interfaces = [\"lb0\", \"peer0\"]"), "{}", bed.read());
    bed.done("interface detach lb0");
    assert!(!attached("lb0") && attached("peer0"));
    bed.done("interface attach lb0");
    bed.done("interface detach --all");
    assert!(!attached("lb0") && !attached("peer0"));
}

#[test]
#[ignore = "needs root"]
fn the_mode_follows_the_config() {
    let mut bed = Bed::new(VIPS);
    bed.start(&[]);
    let mode = |bed: &Bed| bed.json("interface list")[0]["attached"]["mode"].as_str().unwrap().to_owned();
    assert_eq!(mode(&bed), "native");
    for wanted in ["generic", "native", "generic", "auto"] {
        let text = bed.read();
        let lines = text.lines().filter(|line| !line.starts_with("xdp_mode")).collect::<Vec<_>>().join("\n");
        bed.write(&lines.replace("[node]", &format!("[node]\nxdp_mode = \"{wanted}\"")));
        bed.done("apply");
        assert_eq!(mode(&bed), if wanted == "generic" { "generic" } else { "native" }, "{wanted}");
    }
}

#[test]
#[ignore = "needs root"]
fn a_way_that_native_xdp_cannot_take_is_none() {
    let mut bed = Bed::new(VIPS);
    ip("link add br0 type bridge");
    ip("link add port0 type veth peer name port1");
    ip("link set port0 master br0 up");
    ip("link set port1 up");
    ip("link set br0 up");
    ip("addr add 10.0.2.1/24 dev br0");
    ip("neigh replace 10.0.2.21 lladdr 02:00:00:00:00:21 dev br0 nud permanent");
    bed.replace("  { address = \"10.0.1.12\", weight = 100 }, # rack 2", "  { address = \"10.0.2.21\" },");
    let mode = |bed: &Bed, from: &str, to: &str| {
        bed.replace(from, to);
        let said = bed.naru("apply");
        assert_eq!(said.code, 0, "{}", said.err);
    };
    let behind = |bed: &Bed| bed.backend("10.0.2.21")["next_hop"].clone();
    eventually("the bridge is up", || ip("link show br0").contains("state UP"), || ip("link"));
    bed.start(&[]);
    for _ in 0..2 {
        let reason = behind(&bed)["reason"].as_str().unwrap_or_default().to_owned();
        assert!(reason.contains("br0 (bridge)") && reason.contains("generic"), "{reason:?}");
        assert_eq!(bed.json("status")["unreachable"][0]["address"], "10.0.2.21");
        assert_eq!(bed.backend("10.0.1.11")["next_hop"]["interface"], "lb0");
        mode(&bed, "[node]", "[node]\nxdp_mode = \"generic\"");
        assert_eq!(behind(&bed)["mac"], "02:00:00:00:00:21");
        assert_eq!(
            bed.json("status")["warnings"],
            serde_json::json!([]),
            "any interface sends what generic XDP redirects"
        );
        mode(&bed, "[node]\nxdp_mode = \"generic\"", "[node]");
    }
}

/// The MTU of the way to each backend that the maps have, in the order of their ids.
fn mtus_in_maps(bed: &Bed) -> Vec<u32> {
    fn array<V: aya::Pod>(bed: &Bed, name: &str) -> Array<MapData, V> {
        let pin = match Layout::of(name).unwrap().version {
            1 => name.to_owned(),
            version => format!("{name}_v{version}"),
        };
        let data = MapData::from_pin(bed.bpffs.join(format!("v{ABI}/g1/maps")).join(pin)).unwrap();
        Map::from_map_data(data).unwrap().try_into().unwrap()
    }
    let backends = array::<Backend>(bed, maps::BACKENDS);
    let cells = array::<NextHopCell>(bed, maps::NEXT_HOPS);
    let hops = (1..backends.len()).map(|id| backends.get(&id, 0).unwrap()).take_while(|backend| backend.vip != NO_ID);
    hops.map(|backend| cells.get(&backend.hop, 0).unwrap().current().unwrap().mtu).collect()
}

#[test]
#[ignore = "needs root"]
fn a_way_that_carries_less_is_told_by_vip_and_by_backend() {
    let mut bed = Bed::new(VIPS);
    ip("neigh replace 10.0.1.12 lladdr 02:00:00:00:00:12 dev lb0 nud permanent");
    bed.start(&[]);
    let mtus = |bed: &Bed| {
        let shown = ["10.0.1.11", "10.0.1.12"].map(|own| bed.backend(own)["next_hop"]["mtu"].as_u64().unwrap());
        assert_eq!(shown.map(|mtu| mtu as u32), *mtus_in_maps(bed), "{}", bed.log());
        shown
    };
    assert_eq!(mtus(&bed), [1500, 1500]);
    assert_eq!(bed.done("vip set web --mtu 1400").lines().next(), Some("vip web: mtu none → 1400"));
    assert_eq!(mtus(&bed), [1400, 1400]);
    let set = |bed: &Bed, mtu: &str| bed.done(&format!("backend set web 10.0.1.12 --mtu {mtu}"));
    assert!(set(&bed, "1300").starts_with("vip web: backend 10.0.1.12 mtu as the VIP's → 1300\n"));
    assert_eq!(mtus(&bed), [1400, 1300]);
    assert_eq!(bed.backend("10.0.1.12")["mtu"], 1300);
    ip("link set lb0 mtu 1350");
    eventually("the interface is followed", || mtus_in_maps(&bed) == [1350, 1300], || bed.log());
    ip("link set lb0 mtu 1500");
    eventually("the interface is followed", || mtus_in_maps(&bed) == [1400, 1300], || bed.log());

    assert_eq!(bed.end(Signal::SIGTERM), 0);
    assert_eq!(mtus_in_maps(&bed), [1400, 1300]);
    bed.start(&[]);
    assert_eq!(mtus(&bed), [1400, 1300]);
    assert_eq!(bed.json("apply")["writes"], 0);

    set(&bed, "none");
    assert_eq!(mtus(&bed), [1400, 1500]);
    set(&bed, "vip");
    assert_eq!(mtus(&bed), [1400, 1400]);
    bed.done("vip set web --mtu none --echo never");
    assert_eq!(mtus(&bed), [1500, 1500]);
    let shown = bed.done("vip show web");
    assert!(shown.contains("never") && bed.json("vip show web")["echo"] == "never", "{shown}");
    bed.refused("vip set web --mtu 100", 2, "`100` is not an MTU; write bytes from 576 to 65535, or `none`");
}

#[test]
#[ignore = "needs root"]
fn an_interface_that_packets_leave_by_and_that_is_not_attached_is_warned_of() {
    let mut bed = Bed::new(VIPS);
    ip("link add lb1 type veth peer name peer1");
    ip("link set lb1 up");
    ip("link set peer1 up");
    ip("addr add 10.0.2.1/24 dev lb1");
    for last in [21, 22] {
        ip(&format!("neigh replace 10.0.2.{last} lladdr 02:00:00:00:00:{last} dev lb1 nud permanent"));
    }
    bed.start(&[]);
    assert_eq!(bed.json("status")["warnings"], serde_json::json!([]));
    let warned = "packets to 10.0.2.21 leave by lb1, where naru is not attached";
    let said = bed.naru("backend add web 10.0.2.21");
    assert_eq!(said.code, 0, "{}", said.err);
    assert!(said.err.contains(warned), "{}", said.err);
    let said = bed.naru("backend set web 10.0.2.21 --weight 7");
    assert!(!said.err.contains(warned), "said before: {}", said.err);
    bed.done("backend add web 10.0.2.22");
    let status = bed.done("status");
    assert!(status.contains("packets to 10.0.2.21 and 1 more backends leave by lb1"), "{status}");
    bed.end(Signal::SIGTERM);
    bed.start(&[]);
    assert!(bed.log().lines().any(|line| line.contains("WARN") && line.contains("leave by lb1")), "{}", bed.log());
    bed.done("interface attach lb1");
    assert_eq!(bed.json("status")["warnings"], serde_json::json!([]));
}

#[test]
#[ignore = "needs root"]
fn metrics_are_scraped_and_may_move() {
    let mut bed = Bed::new(VIPS);
    bed.start(&[]);
    let answer = bed.scrape();
    assert!(answer.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8"), "{answer}");
    assert!(answer.contains("naru_backend_weight{vip=\"web\",backend=\"10.0.1.11\"} 100\n"), "{answer}");
    assert!(answer.contains("naru_interface_attached{interface=\"lb0\",mode=\"native\"} 1\n"), "{answer}");
    assert!(answer.contains("naru_slots{state=\"settled\"} 16381\nnaru_slots{state=\"moving\"} 0\n"), "{answer}");
    assert!(answer.contains("naru_flow_packets_total{outcome=\"known\"} 0\n"), "{answer}");
    assert!(answer.ends_with("# EOF\n"), "{answer}");

    bed.replace(":9100", ":9101");
    bed.done("apply");
    bed.metrics_port = 9101;
    assert!(bed.scrape().contains("naru_applies_total{result=\"success\"} 2\n"));

    let _taken = std::net::TcpListener::bind("127.0.0.1:9102").unwrap();
    bed.replace(":9101", ":9102");
    bed.refused("apply", 4, "cannot serve /metrics on 127.0.0.1:9102");
    // Scrapes within a second show the same.
    let failures = || bed.scrape().contains("naru_applies_total{result=\"failure\"} 1\n");
    eventually("the failure is counted", failures, || bed.scrape());
}

#[test]
#[ignore = "needs root"]
fn metrics_may_move_to_an_address_that_overlaps() {
    let mut bed = Bed::new(VIPS);
    bed.start(&[]);
    let applies = |bed: &Bed, succeeded| {
        let count = format!("naru_applies_total{{result=\"success\"}} {succeeded}\n");
        assert!(bed.scrape().contains(&count), "{count}{}", bed.scrape());
    };
    for (from, to, succeeded) in [("127.0.0.1", "0.0.0.0", 2), ("0.0.0.0", "127.0.0.1", 3)] {
        bed.replace(&format!("{from}:9100"), &format!("{to}:9100"));
        bed.done("apply");
        applies(&bed, succeeded);
    }

    // Somebody else's listener is in the way of the new address, not of the one before.
    let other = std::net::TcpListener::bind("10.0.1.1:9100").unwrap();
    bed.replace("127.0.0.1:9100", "0.0.0.0:9100");
    bed.refused("apply", 4, "cannot serve /metrics on 0.0.0.0:9100");
    applies(&bed, 3);
    drop(other);

    // The address is fine, what else changes is not.
    ip("link add taken0 type veth peer name taken1");
    let decap = |what| format!("decap {what} taken0 --bpffs {}-decap", bed.bpffs.display());
    bed.done(&format!("{} --from 172.16.0.0/16 --to 10.0.1.1", decap("attach")));
    bed.replace("interfaces = [\"lb0\"]", "interfaces = [\"lb0\", \"taken0\"]");
    bed.refused("apply", 4, "already runs the XDP program");
    applies(&bed, 3);
    let anywhere = TcpStream::connect(("10.0.1.1", bed.metrics_port));
    assert!(anywhere.is_err(), "metrics are served on the new address");
    bed.done(&decap("detach"));
    let _ = fs::remove_dir_all(format!("{}-decap", bed.bpffs.display()));
}

#[test]
#[ignore = "needs root"]
fn a_running_daemon_does_not_move() {
    let mut bed = Bed::new(VIPS);
    bed.start(&[]);
    let socket = bed.socket();
    bed.replace("naru.sock", "other.sock");
    bed.refused(&format!("apply --socket {}", socket.display()), 4, "cannot change socket in [node]");
}

#[test]
#[ignore = "needs root"]
fn the_api_answers_errors_as_json() {
    let mut bed = Bed::new(VIPS);
    bed.start(&[]);
    let request = |head: &str, body: &str| {
        let length = body.len();
        let answer = bed.raw(&format!(
            "{head} HTTP/1.1\r\nHost: naru\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        ));
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse::<u16>().unwrap();
        (status, serde_json::from_str::<Value>(body).unwrap())
    };
    let (status, body) = request("GET /v1/vips/web", "");
    assert_eq!((status, &body["address"]), (200, &"203.0.113.10".into()));
    for (head, sent, status, kind) in [
        ("GET /v1/nope", "", 404, "not-found"),
        ("GET /v1/vips/nope", "", 404, "not-found"),
        ("GET /v1/backends?vip=nope", "", 404, "not-found"),
        ("GET /v1/flows?vip=nope", "", 404, "not-found"),
        ("GET /v1/flows/counts?backend=10.0.1.99", "", 404, "not-found"),
        ("GET /v1/flows?vpi=web", "", 400, "invalid"),
        ("GET /v1/flows?table=half", "", 400, "invalid"),
        ("GET /v1/flows?client=10.0.0.0/33", "", 400, "invalid"),
        ("GET /v1/flows?limit=100001", "", 422, "invalid"),
        ("GET /v1/apply", "", 405, "invalid"),
        ("POST /v1/edit", "not json", 400, "invalid"),
        ("POST /v1/edit", "{\"op\": \"backend_explode\"}", 422, "invalid"),
        ("POST /v1/edit", "{\"op\": \"vip_remove\", \"name\": \"nope\"}", 404, "not-found"),
        ("POST /v1/edit", "{\"op\": \"interface_add\", \"name\": \"lb0\"}", 409, "refused"),
    ] {
        let (got, body) = request(head, sent);
        assert_eq!((got, &body["kind"]), (status, &kind.into()), "{head} {sent}: {body}");
        assert!(!body["error"].as_str().unwrap().is_empty());
    }
}

#[test]
#[ignore = "needs root"]
fn check_needs_no_daemon() {
    let bed = Bed::new(VIPS);
    assert!(bed.done("check").ends_with("is valid: 1 VIPs, 2 backends\n"));
    let checked = bed.json("check");
    assert_eq!((&checked["vips"], &checked["backends"]), (&1.into(), &2.into()), "{checked}");
    assert_eq!(checked["file"], bed.file().to_str().unwrap());
    assert_eq!(checked["warnings"], serde_json::json!([]));
    let other = bed.dir.path().join("other.toml");
    fs::write(&other, "[node]\ninterfaces = [\"lb0\"]\nspeed = 1\n").unwrap();
    bed.refused(&format!("check {}", other.display()), 2, "other.toml:3:1: unknown key `speed`");
    bed.refused("check /nonexistent.toml", 4, "/nonexistent.toml");
    assert!(bed.done("completions bash").contains("_naru"));
}

/// What this host sends to the VIP leaves by the peer, and comes in on `lb0`.
fn route_to_vip() {
    ip("link set lb0 address 02:00:00:00:00:01");
    ip("route add 203.0.113.10 dev peer0");
    ip("neigh replace 203.0.113.10 lladdr 02:00:00:00:00:01 dev peer0 nud permanent");
    // A new MAC address makes the kernel forget the neighbours.
    ip("neigh replace 10.0.1.11 lladdr 02:00:00:00:00:11 dev lb0 nud permanent");
    ip("neigh replace 10.0.1.12 lladdr 02:00:00:00:00:12 dev lb0 nud permanent");
}

#[test]
#[ignore = "needs root"]
fn flows_are_listed_counted_and_narrowed_down() {
    let mut bed = Bed::new(VIPS);
    route_to_vip();
    bed.replace("forward = \"ipip\"", "forward = \"ipip\"\ntracking = \"always\"");
    bed.start(&[]);
    assert_eq!(bed.done("flows"), "(none)\n");

    let vip = "203.0.113.10:80".parse().unwrap();
    for _ in 0..3 {
        TcpStream::connect_timeout(&vip, Duration::from_millis(50)).unwrap_err();
    }
    let listed = bed.json("flows");
    let flows = listed["flows"].as_array().unwrap();
    assert_eq!((flows.len(), &listed["matched"]), (3, &3.into()), "{listed}");
    for flow in flows {
        let reported = ["vip", "port", "client", "table", "state"].map(|key| flow[key].as_str().unwrap());
        assert_eq!(reported, ["web", "tcp/80", "10.0.1.1", "embryonic", "syn"], "{flow}");
        assert!(flow["idle_seconds"].as_u64().unwrap() <= 60, "{flow}");
    }

    let port = &flows[0]["client_port"];
    let backend = flows[0]["backend"].as_str().unwrap();
    let of_backend = flows.iter().filter(|flow| flow["backend"] == backend).count();
    for (filter, matched) in [
        (format!("--client-port {port}"), 1),
        (format!("--backend {backend}"), of_backend),
        ("--vip web --client 10.0.1.0/24 --table embryonic --state syn".to_owned(), 3),
        ("--client 10.0.1.1".to_owned(), 3),
        ("--client 10.0.1.2".to_owned(), 0),
        ("--client 2001:db8::/32".to_owned(), 0),
        ("--table established".to_owned(), 0),
        ("--state open".to_owned(), 0),
    ] {
        assert_eq!(bed.json(&format!("flows {filter}"))["matched"], matched, "{filter}");
    }
    let said = bed.naru("flows --limit 2");
    assert_eq!((said.code, said.out.lines().count()), (0, 3), "{}", said.out);
    assert!(said.err.starts_with("2 of 3 flows"), "{}", said.err);
    let counts = bed.json("flows --count");
    let embryonic = counts.as_array().unwrap().iter().map(|count| count["embryonic"].as_u64().unwrap());
    assert_eq!(embryonic.sum::<u64>(), 3, "{counts}");
    bed.refused("flows --vip wbe", 1, "did you mean `web`?");
    bed.refused("flows --vip web --backend 10.0.1.99", 1, "VIP `web` has no backend `10.0.1.99`");

    let tracking = || bed.json("status")["tracking"].clone();
    eventually("a sweep sees them", || tracking()["flows"]["embryonic"] == 3, || tracking().to_string());
    assert_eq!(bed.backend(backend)["flows"], of_backend);
    let opened =
        bed.json("stats")["tracked"].as_array().unwrap().iter().find(|was| was["outcome"] == "opened").cloned();
    assert_eq!(opened.unwrap()["packets"], 3);
}

#[test]
#[ignore = "needs root"]
fn a_drain_is_waited_for() {
    let mut bed = Bed::new(VIPS);
    bed.replace("forward = \"ipip\"", "forward = \"ipip\"\ntcp_idle = \"8s\"");
    bed.start(&[]);
    let slots = bed.backend("10.0.1.12")["slots"].clone();
    let said = bed.naru("backend drain web 10.0.1.12 --wait --timeout 1s");
    assert_eq!((said.code, said.out.as_str()), (4, "vip web: backend 10.0.1.12 state active → drain\n"));
    let left = format!("backend 10.0.1.12 is left with 0 flows, and {slots} slots that are held for idle ones");
    assert!(said.err.contains(&left) && said.err.contains("after 1s"), "{}", said.err);
    let backend = bed.backend("10.0.1.12");
    assert_eq!((&backend["held_slots"], &backend["drained"]), (&slots, &false.into()), "{backend}");
    assert_eq!(bed.json("status")["tracking"]["moving_slots"], slots);
    assert!(bed.done("backend list web").contains(&format!("{slots} slots held for idle flows")));

    let said = bed.naru("backend drain web 10.0.1.12 --wait --timeout 50s");
    assert_eq!((said.code, said.out.as_str()), (0, "nothing to change\n"), "{}", said.err);
    assert_eq!(bed.backend("10.0.1.12")["drained"], true);
    let moving = || bed.json("status")["tracking"]["moving_slots"].clone();
    eventually("every slot is settled", || moving() == 0, || bed.log());
    assert!(bed.done("backend list web").lines().any(|line| line.contains("   drained; drain by root")));
}

#[test]
#[ignore = "needs root"]
fn a_removed_backend_is_listed_until_nothing_is_held_for_it() {
    let mut bed = Bed::new(VIPS);
    bed.replace("forward = \"ipip\"", "forward = \"ipip\"\ntcp_idle = \"8s\"");
    bed.start(&[]);
    bed.done("backend remove web 10.0.1.11");
    let removed = bed.backend("10.0.1.11");
    assert_eq!((&removed["state"], &removed["slots"]), (&"removed".into(), &0.into()));
    assert_eq!(removed["next_hop"]["mac"], "02:00:00:00:00:11");
    assert!(removed["held_slots"].as_u64().unwrap() > 0, "{removed}");
    assert!(bed.done("stats").contains("10.0.1.11 (removed)"));
    let vips = bed.done("vip list");
    assert!(vips.lines().any(|line| line.contains(" 1/1 ")), "{vips}");

    bed.done("backend add web 10.0.1.11");
    let backends = bed.json("backend list web");
    assert_eq!(backends.as_array().unwrap().len(), 2, "{backends}");
    let said = bed.naru("backend remove web 10.0.1.11 --wait --timeout 50s");
    assert_eq!(said.code, 0, "{}", said.err);
    let backends = bed.json("backend list web");
    assert_eq!(backends.as_array().unwrap().len(), 1, "{backends}");
}

#[test]
#[ignore = "needs root"]
fn a_server_that_is_reached_in_another_way_is_the_same_backend() {
    let mut bed = Bed::new(VIPS);
    route_to_vip();
    bed.replace("forward = \"ipip\"", "forward = \"ipip\"\ntracking = \"always\"");
    bed.start(&[]);
    let vip = "203.0.113.10:80".parse().unwrap();
    for _ in 0..4 {
        TcpStream::connect_timeout(&vip, Duration::from_millis(50)).unwrap_err();
    }
    let counted = || bed.json("stats")["vips"][0]["backends"].clone();
    let flows = || {
        let flows = bed.json("flows")["flows"].clone();
        let of = |flow: &Value| (flow["client_port"].clone(), flow["backend"].clone());
        flows.as_array().unwrap().iter().map(of).collect::<Vec<_>>()
    };
    let before = (counted(), flows());
    assert_eq!(before.1.len(), 4);
    bed.done("vip set web --forward l2");
    assert_eq!((counted(), flows()), before, "right after");
    let backends = bed.json("backend list web");
    assert_eq!(backends.as_array().unwrap().len(), 2, "{backends}");
    let freed = || {
        bed.json("status")["maps"]
            .as_array()
            .unwrap()
            .iter()
            .any(|map| map["name"] == "BACKENDS" && map["entries"] == 2)
    };
    eventually("the entries of the way before are freed", freed, || bed.log());
    assert_eq!((counted(), flows()), before, "after a sweep");
}

#[test]
#[ignore = "needs root"]
fn without_tracking_there_is_nothing_to_wait_for() {
    let mut bed = Bed::new(VIPS);
    bed.replace("forward = \"ipip\"", "forward = \"ipip\"\ntracking = \"never\"");
    bed.start(&[]);
    assert_eq!(bed.naru("backend drain web 10.0.1.12 --wait --timeout 10s").code, 0);
    assert_eq!(bed.json("status")["tracking"]["moving_slots"], 0);
}

#[test]
#[ignore = "needs root"]
fn packets_are_counted_and_logged() {
    let mut bed = Bed::new(VIPS);
    route_to_vip();
    bed.replace("[node]", "[node]\nlog_packets = true");
    bed.start(&["--log-level", "debug"]);

    let vip = "203.0.113.10:80".parse().unwrap();
    TcpStream::connect_timeout(&vip, Duration::from_millis(50)).unwrap_err();
    let web = || bed.json("stats")["vips"][0].clone();
    eventually("the SYN is counted", || web()["new_flows"].as_u64().unwrap() > 0, || bed.log());
    let web = web();
    for count in ["packets", "bytes", "new_flows"] {
        let of_backends: u64 = web["backends"].as_array().unwrap().iter().map(|b| b[count].as_u64().unwrap()).sum();
        assert_eq!(web[count], of_backends, "{}\n{}", bed.json("stats"), bed.log());
    }
    let new_flows = format!("naru_vip_new_flows_total{{vip=\"web\"}} {}\n", web["new_flows"]);
    assert!(bed.scrape().contains(&new_flows), "{new_flows}");
    eventually("the data plane's messages come", || bed.log().contains("to backend"), || bed.log());

    // Switched off, the program that logs goes, and comes back when it is switched on again.
    bed.replace("log_packets = true", "log_packets = false");
    bed.done("apply");
    bed.replace("log_packets = false", "log_packets = true");
    bed.done("apply");
}

#[test]
#[ignore = "needs root"]
fn an_interface_of_someone_elses_is_left_alone_and_in_nobodys_way() {
    let mut bed = Bed::new(VIPS);
    bed.start(&[]);
    let decap = |what: &str, interface: &str| format!("decap {what} {interface} --bpffs {}-decap", bed.bpffs.display());
    let [attach_peer, attach_late, detach_late] =
        [decap("attach", "peer0"), decap("attach", "late0"), decap("detach", "late0")];
    let attach = |line: &str| format!("{line} --from 172.16.0.0/16 --to 10.0.1.1");
    bed.done(&attach(&attach_peer));
    let text = bed.read();
    bed.refused("interface attach peer0", 4, "already runs the XDP program");
    assert_eq!(bed.read(), text);
    assert_eq!(bed.json("interface list").as_array().unwrap().len(), 1);

    // The configured interface goes, and one comes in its place that somebody else has taken already.
    ip("link del lb0");
    eventually("lb0 is missed", || bed.json("interface list")[0]["link"] == Value::Null, || bed.log());
    ip("link add late0 type veth peer name peer0");
    bed.done(&attach(&attach_late));
    ip("link set late0 name lb0");
    let problem = |bed: &Bed| bed.json("interface list")[0]["problem"].as_str().unwrap_or_default().to_owned();
    eventually("it is noted", || problem(&bed).contains("already runs the XDP program"), || bed.log());
    bed.done("backend drain web 10.0.1.12");
    assert!(problem(&bed).contains("already runs the XDP program"), "{}", problem(&bed));

    bed.done(&detach_late);
    eventually("lb0 is attached once it is free", || problem(&bed).is_empty(), || bed.log());
    assert_eq!(bed.json("interface list")[0]["attached"]["mode"], "native");
    let _ = fs::remove_dir_all(format!("{}-decap", bed.bpffs.display()));
}

#[test]
#[ignore = "needs root"]
fn a_start_serves_what_it_can_and_tries_the_rest_again() {
    let mut bed = Bed::new(VIPS);
    ip("link add taken0 type veth peer name taken1");
    let decap = |what| format!("decap {what} taken0 --bpffs {}-decap", bed.bpffs.display());
    let (attach, detach) = (format!("{} --from 172.16.0.0/16 --to 10.0.1.1", decap("attach")), decap("detach"));
    bed.done(&attach);
    let listener = std::net::TcpListener::bind(("127.0.0.1", bed.metrics_port)).unwrap();
    bed.replace("interfaces = [\"lb0\"]", "interfaces = [\"gone0\", \"taken0\", \"lb0\"]");
    bed.start(&[]);

    assert!(attached("lb0"), "{}", bed.log());
    assert_eq!(bed.backend("10.0.1.11")["next_hop"]["interface"], "lb0");
    let problems = |bed: &Bed| {
        let problems = bed.json("status")["problems"].as_array().unwrap().clone();
        let problem = |p: &Value| ["kind", "what"].map(|key| p[key].as_str().unwrap().to_owned()).join(" ");
        problems.iter().map(problem).collect::<Vec<_>>()
    };
    let all = ["interface gone0", "interface taken0", "metrics 127.0.0.1:9100"];
    assert_eq!(problems(&bed), all);
    let status = bed.done("status");
    for said in ["PROBLEM WITH", "already runs the XDP program", "cannot serve /metrics on 127.0.0.1:9100"] {
        assert!(status.contains(said), "{status}");
    }

    // An old problem is in no change's way; a new mistake is still refused.
    bed.done("backend drain web 10.0.1.12");
    bed.refused("interface attach nope0", 2, "there is no interface nope0 here");
    assert_eq!(problems(&bed), all);

    drop(listener);
    eventually("metrics are served", || problems(&bed) == all[..2], || bed.log());
    let count = |kind, count| format!("naru_problems{{kind=\"{kind}\"}} {count}\n");
    let scraped = bed.scrape();
    assert!(scraped.contains(&count("interface", 2)) && scraped.contains(&count("metrics", 0)), "{scraped}");
    bed.done(&detach);
    eventually("taken0 is attached", || problems(&bed) == all[..1], || bed.log());
    assert!(attached("taken0"));
    ip("link add gone0 type veth peer name gone1");
    eventually("gone0 is attached", || problems(&bed).is_empty(), || bed.log());
    let times = |said: &str| bed.log().matches(said).count();
    assert_eq!(times("cannot serve /metrics"), 1, "each is told once: {}", bed.log());
    assert_eq!(times("already runs the XDP program"), 1, "{}", bed.log());
    assert_eq!(times("mended: metrics 127.0.0.1:9100"), 1, "{}", bed.log());
    assert!(!bed.done("status").contains("PROBLEM"));
    let _ = fs::remove_dir_all(format!("{}-decap", bed.bpffs.display()));
}

#[test]
#[ignore = "needs root"]
fn a_request_whose_client_has_gone_is_not_carried_out_later() {
    let mut bed = Bed::new(VIPS);
    bed.start(&[]);
    let send = |body: String| {
        let mut stream = UnixStream::connect(bed.socket()).unwrap();
        let length = body.len();
        let head = "POST /v1/edit HTTP/1.1\r\nHost: naru\r\nConnection: close\r\nContent-Type: application/json";
        write!(stream, "{head}\r\nContent-Length: {length}\r\n\r\n{body}").unwrap();
        stream
    };
    let drains = |backend: u32| {
        let body = "{\"op\": \"backend_set\", \"vip\": \"web\"";
        send(format!("{body}, \"address\": \"10.0.1.{backend}\", \"state\": \"drain\"}}"))
    };
    // An edit waits half a second for neighbours that do not answer; another one comes meanwhile, and its client goes.
    let met = (20..30).any(|silent| {
        let begun = Instant::now();
        let body = format!("{{\"op\": \"backend_add\", \"vip\": \"web\", \"address\": \"10.0.1.{silent}\"}}");
        let mut waits = send(body);
        sleep(Duration::from_millis(100));
        let goes = drains(11);
        sleep(Duration::from_millis(200));
        drop(goes);
        let in_time = begun.elapsed() < Duration::from_millis(400);
        let mut answer = String::new();
        waits.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        // Whatever waited before this one has had its turn.
        bed.done("backend set web 10.0.1.12 --weight 7");
        if in_time {
            assert_eq!(bed.backend("10.0.1.11")["state"], "active", "{}", bed.log());
        } else {
            bed.done("backend set web 10.0.1.11 --state active");
        }
        // Else its turn came before it was there, or before its client went.
        in_time && bed.log().contains("whoever asked for it has gone")
    });
    assert!(met, "the machine is too busy for a request to wait for 200 ms behind another:\n{}", bed.log());
}

/// Runs a command as another user, who is in these groups.
fn as_user(bed: &Bed, uid: u32, groups: &str, line: &str) -> Said {
    let mut command = Command::new("setpriv");
    command.args([&format!("--reuid={uid}"), &format!("--regid={uid}"), "--inh-caps=-all"]);
    command.arg(if groups.is_empty() { "--clear-groups".to_owned() } else { format!("--groups={groups}") });
    // The target directory may be out of other users' reach.
    command.arg(bed.dir.path().join("naru")).args(line.split(' '));
    let output =
        command.env("NARU_CONFIG", bed.file()).env_remove("NARU_SOCKET").output().expect("util-linux is installed");
    let [out, err] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    Said { code: output.status.code().unwrap(), out, err }
}

/// Puts `text` in the place of `/etc/group`, for this thread and the daemons that it starts.
fn with_groups(bed: &Bed, text: &str) {
    let groups = bed.dir.path().join("group");
    fs::write(&groups, text).unwrap();
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_PRIVATE | MsFlags::MS_REC, None::<&str>).unwrap();
    mount(Some(&groups), "/etc/group", None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
}

#[test]
#[ignore = "needs root"]
fn groups_say_who_reads_and_who_changes() {
    const USER: u32 = 64_000;
    let mut bed = Bed::new(VIPS);
    with_groups(&bed, "root:x:0:\nnaru:x:64001:\nwatchers:x:64002:\n");
    fs::set_permissions(bed.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::copy(naru(), bed.dir.path().join("naru")).unwrap();
    bed.start(&[]);
    let mode = |bed: &Bed| fs::metadata(bed.socket()).unwrap().permissions().mode() & 0o777;
    let outcome = |bed: &Bed, groups: &str, line: &str, code: i32, says: &str| {
        let said = as_user(bed, USER, groups, line);
        assert_eq!(said.code, code, "naru {line} in {groups:?}: {}{}\n{}", said.out, said.err, bed.log());
        assert!(format!("{}{}", said.out, said.err).contains(says), "{}{}", said.out, said.err);
    };
    let drain = "backend drain web 10.0.1.12";

    eventually("the socket has its group", || as_user(&bed, USER, "64001", "status").code == 0, || bed.log());
    assert_eq!(mode(&bed), 0o660);
    for (groups, line) in [("", "status"), ("64002", "status"), ("64002", drain)] {
        outcome(&bed, groups, line, 5, "be root or a member of the group `naru`");
    }
    outcome(&bed, "64002,64001", drain, 0, "state active → drain");
    let log = bed.log();
    let by = log.lines().find(|line| line.contains("drain of backend")).expect("the change is logged");
    assert!(by.contains("INFO") && by.contains("done in"), "{by}");
    assert!(by.contains(&format!("by #{USER} (uid {USER}, process ")) && by.contains(" \"naru\") on "), "{by}");
    assert!(log.contains("vip web: backend 10.0.1.12 state active → drain"), "{log}");

    bed.replace("[node]", "[node]\nreaders = [\"watchers\", \"absent\"]");
    bed.done("apply");
    assert!(bed.log().lines().any(|line| line.contains("apply by root (uid 0, ") && line.contains("done in")));
    eventually("others may connect", || mode(&bed) == 0o666, || bed.log());
    let reported = || as_user(&bed, USER, "64002", "status").out;
    let absent = "there is no group absent, which `readers` in [node] names";
    eventually("a group that there is not is a problem", || reported().contains(absent), reported);
    outcome(&bed, "64002", drain, 5, "may read and not change things: be root or a member of the group `naru`");
    outcome(&bed, "64002", "apply", 5, "may read and not change things");
    outcome(
        &bed,
        "",
        "status",
        5,
        "may not use this daemon: be root or a member of the group `naru`, or to read, of watchers",
    );

    bed.replace("[\"watchers\", \"absent\"]", "\"all\"");
    bed.done("apply");
    for line in ["status", "backend list", "stats", "flows", "diff"] {
        outcome(&bed, "", line, 0, "");
    }
    outcome(&bed, "", "backend set web 10.0.1.12 --state active", 5, "may read and not change things");
    assert_eq!(bed.backend("10.0.1.12")["state"], "drain");

    // Refusals do not fill the log, and say how many there were.
    let refused = |bed: &Bed| bed.log().matches("refused: not permitted").count();
    let before = refused(&bed);
    for _ in 0..20 {
        as_user(&bed, USER, "", "apply");
    }
    assert!(refused(&bed) < before + 10, "{}", bed.log());

    bed.replace("readers = \"all\"\n", "");
    bed.signal(Signal::SIGHUP);
    eventually("others may not connect any more", || mode(&bed) == 0o660, || bed.log());
    assert!(bed.log().contains("apply by signal SIGHUP done in"), "{}", bed.log());
}

#[test]
#[ignore = "needs root"]
fn a_body_that_never_comes_or_is_too_long_is_refused() {
    let mut bed = Bed::new(VIPS);
    bed.start(&[]);
    let head = "POST /v1/edit HTTP/1.1\r\nHost: naru\r\nConnection: close\r\nContent-Type: application/json";
    assert!(bed.raw(&format!("{head}\r\nContent-Length: 99999999\r\n\r\n{{}}")).starts_with("HTTP/1.1 413"));
    assert!(bed.raw(&format!("{head}\r\nContent-Length: 10\r\n\r\n{{}}")).starts_with("HTTP/1.1 408"));
}

#[test]
#[ignore = "needs root"]
fn connections_to_the_socket_that_say_nothing_are_in_nobodys_way() {
    let mut bed = Bed::new(VIPS);
    bed.start(&[]);
    let silent: Vec<_> = (0..500).map(|_| UnixStream::connect(bed.socket()).unwrap()).collect();
    bed.done("backend drain web 10.0.1.12");
    assert_eq!(bed.backend("10.0.1.12")["state"], "drain");
    let descriptors = fs::read_dir(format!("/proc/{}/fd", bed.daemon.as_ref().unwrap().id())).unwrap().count();
    assert!(descriptors < 250, "{descriptors} descriptors are open in the daemon");
    drop(silent);
}

#[test]
#[ignore = "needs root"]
fn what_is_asked_wrongly_is_answered_like_everything_else() {
    let mut bed = Bed::new(VIPS);
    bed.start(&[]);
    for (path, kind) in [
        ("/v1/backends?vip=a&vip=b", "invalid"),
        ("/v1/vips/%FF", "invalid"),
        ("/v1/flows?limit=many", "invalid"),
        ("/v1/nothing", "not-found"),
    ] {
        let mut stream = UnixStream::connect(bed.socket()).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: naru\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        let body: Value = serde_json::from_str(body).unwrap_or_else(|error| panic!("{path}: {error}: {answer}"));
        assert_eq!(body["kind"], kind, "{path}: {body}");
    }
}

#[test]
#[ignore = "needs root"]
fn who_has_all_connections_is_told_so() {
    if !patience::has_faults("who has all connections") {
        return;
    }
    let mut bed = Bed::new(VIPS);
    bed.start(&[]);
    let unread = bed.faults().join("unread");
    fs::write(&unread, "config").unwrap();
    let mut waiting = Vec::new();
    let is_refused = || {
        let mut stream = UnixStream::connect(bed.socket()).unwrap();
        // It may be closed already.
        let _ = stream.write_all(b"GET /v1/diff HTTP/1.1\r\nHost: naru\r\n\r\n");
        stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let mut answer = [0; 1000];
        let read = stream.read(&mut answer).unwrap_or_default();
        waiting.push(stream);
        answer[..read].starts_with(b"HTTP/1.1 503 ")
    };
    eventually("all connections wait for answers", is_refused, || bed.log());
    bed.refused("vip list", 4, "none of them gives way to one more of this user: try again");
    fs::remove_file(&unread).unwrap();
    eventually("connections are free again", || bed.naru("vip list").code == 0, || bed.log());
}

#[test]
#[ignore = "needs root"]
fn a_config_that_is_no_file_is_refused_and_not_waited_for() {
    let mut bed = Bed::new(VIPS);
    bed.start(&[]);
    let text = bed.read();
    fs::remove_file(bed.file()).unwrap();
    mkfifo(&bed.file(), Mode::from_bits_truncate(0o600)).unwrap();
    let on_socket = |line: &str| format!("{line} --socket {}", bed.socket().display());
    let says = format!("cannot read the config {}: it is not a file", bed.file().display());
    assert!(bed.done(&on_socket("status")).contains(&says), "{}", bed.done(&on_socket("status")));
    for line in ["diff", "apply", "backend set web 10.0.1.12 --state drain"] {
        bed.refused(&on_socket(line), 4, &says);
    }
    // The command looks there for the socket, and takes the one that is usual.
    bed.naru("vip list");
    fs::remove_file(bed.file()).unwrap();
    bed.write(&text);
    assert_eq!(bed.done("diff"), "The file is what runs.\n");
}

#[test]
#[ignore = "needs root"]
fn a_socket_that_cannot_be_had_keeps_no_daemon_down() {
    let mut bed = Bed::new(VIPS);
    bed.replace("/naru.sock", "/run/naru.sock");
    let (run, socket) = (bed.dir.path().join("run"), bed.dir.path().join("run/naru.sock"));
    let in_the_way =
        [(&run, "cannot make the directory of"), (&socket, "naru.sock exists and is not a socket: move it away")];
    for (path, says) in in_the_way {
        fs::write(path, "precious").unwrap();
        bed.launch(&[]);
        bed.wait_for_problems("socket", 1);
        assert!(attached("lb0") && bed.log().matches(says).count() == 1, "{}", bed.log());
        bed.refused("status", 3, "no daemon answers at");
        fs::remove_file(path).unwrap();
        eventually("commands are taken", || bed.naru("status").code == 0, || bed.log());
        eventually("nothing is wrong", || bed.json("status")["problems"] == serde_json::json!([]), || bed.log());
        assert!(bed.log().contains(&format!("mended: socket {}", socket.display())), "{}", bed.log());
        bed.done("backend drain web 10.0.1.12");
        assert_eq!(bed.end(Signal::SIGTERM), 0);
        assert!(!path_exists(&socket));
    }
    fs::write(&socket, "precious").unwrap();
    bed.launch(&[]);
    bed.wait_for_problems("socket", 1);
    assert_eq!(bed.end(Signal::SIGTERM), 0);
    assert_eq!(fs::read_to_string(&socket).unwrap(), "precious");
}

#[test]
#[ignore = "needs root"]
fn a_socket_that_is_taken_away_is_there_again() {
    let mut bed = Bed::new(VIPS);
    bed.start(&[]);
    let mut kept = UnixStream::connect(bed.socket()).unwrap();
    kept.set_read_timeout(Some(LIMIT)).unwrap();
    let ask = |stream: &mut UnixStream| {
        stream.write_all(b"GET /v1/nope HTTP/1.1\r\nHost: naru\r\n\r\n").unwrap();
        let mut answer = vec![0; 1024];
        let read = stream.read(&mut answer).unwrap();
        answer.truncate(read);
        String::from_utf8(answer).unwrap()
    };
    assert!(ask(&mut kept).starts_with("HTTP/1.1 404"));
    fs::remove_file(bed.socket()).unwrap();
    eventually("commands are taken", || bed.naru("status").code == 0, || bed.log());
    assert!(ask(&mut kept).starts_with("HTTP/1.1 404"), "a connection from before goes on");

    // Another daemon's is left to it, and so is a file.
    let beside = bed.dir.path().join("beside");
    let other = std::os::unix::net::UnixListener::bind(&beside).unwrap();
    fs::rename(&beside, bed.socket()).unwrap();
    eventually("it is told", || bed.log().contains("another daemon answers at"), || bed.log());
    bed.wait_for_problems("socket", 1);
    drop(other);
    eventually("commands are taken", || bed.naru("status").code == 0, || bed.log());
    fs::write(&beside, "precious").unwrap();
    fs::rename(&beside, bed.socket()).unwrap();
    bed.wait_for_problems("socket", 1);
    assert_eq!(fs::read_to_string(bed.socket()).unwrap(), "precious");
    assert_eq!(bed.end(Signal::SIGTERM), 0);
    assert_eq!(fs::read_to_string(bed.socket()).unwrap(), "precious");
}

#[test]
#[ignore = "needs root"]
fn a_listener_for_metrics_that_fails_is_begun_anew() {
    if !patience::has_faults("a listener for metrics that fails") {
        return;
    }
    let mut bed = Bed::new(VIPS);
    bed.start(&[]);
    bed.scrape();
    let fault = bed.faults().join("panic");
    fs::write(&fault, "accept").unwrap();
    let start = "metrics on http://127.0.0.1:9100/metrics";
    let fails = |times| {
        // Who connects is what it fails at.
        let has_failed = || !bed.has_metrics() && bed.log().matches(start).count() > times;
        eventually("the listener fails and is begun anew", has_failed, || bed.log());
    };
    fails(1);
    let reported = || bed.has_metrics() || bed.json("status")["problems"][0]["kind"] == "metrics";
    eventually("that is told while it lasts", reported, || bed.log());
    fails(3);
    let log = bed.log();
    let reported = ["/metrics on 127.0.0.1:9100 has failed", "mended:"].map(|said| log.matches(said).count());
    assert_eq!(reported, [1, 0], "{log}");
    bed.done("backend drain web 10.0.1.12");
    fs::remove_file(fault).unwrap();
    bed.wait_for_problems("metrics", 0);
    bed.scrape();
    let log = bed.log();
    for said in ["the listener for /metrics on 127.0.0.1:9100 has failed", "mended: metrics 127.0.0.1:9100"] {
        assert!(log.contains(said), "{log}");
    }
}

#[test]
#[ignore = "needs root"]
fn backends_have_series_where_the_config_wants_them() {
    let mut bed = Bed::new(VIPS);
    bed.replace("[node]", "[node]\nmetrics_backends = false");
    bed.start(&[]);
    bed.done("vip add dns --address 203.0.113.53 --port udp/53 --forward l2 --backend 10.0.1.11");
    let has = |bed: &Bed, vip: &str| {
        let scraped = bed.scrape();
        assert!(scraped.contains(&format!("naru_vip_packets_total{{vip=\"{vip}\"}} 0\n")), "{scraped}");
        scraped.contains(&format!("naru_backend_weight{{vip=\"{vip}\",backend=\"10.0.1.11\"}} 100\n"))
    };
    eventually("what was read before is old", || bed.scrape().contains("dns"), || bed.scrape());
    assert_eq!((has(&bed, "web"), has(&bed, "dns")), (false, false));
    bed.replace("name = \"web\"", "name = \"web\"\nmetrics_backends = true");
    let changed = "vip web: metrics_backends as in [node] → true\n";
    assert_eq!(bed.naru("diff").out, changed);
    assert_eq!(bed.done("apply"), changed);
    eventually("web has series", || has(&bed, "web"), || bed.scrape());
    assert!(!has(&bed, "dns"));
}

/// Which program forwards, and which keys of the flow hash are in force by the fingerprint.
fn hashes_by(bed: &Bed) -> (String, String) {
    let program =
        ip("link show lb0").split("prog/xdp id ").nth(1).map(|rest| rest[..rest.find(' ').unwrap()].to_owned());
    let status = bed.json("status");
    (program.expect("lb0 has a program"), status["hash_seed"].as_str().unwrap_or("none").to_owned())
}

#[test]
#[ignore = "needs root"]
fn a_change_of_the_hash_seed_is_told_as_what_it_is() {
    let mut bed = Bed::new(VIPS);
    bed.start(&[]);
    let before = hashes_by(&bed);
    assert_eq!(before.1, FINGERPRINT);
    assert!(bed.done("status").contains("fingerprint 4c5b9787"), "{}", bed.done("status"));

    // Neither an edit nor a restart takes what nobody asked for.
    let made = bed.done(&format!("seed generate --file {} --force", bed.seed().display()));
    let other = bed.done(&format!("seed fingerprint --file {}", bed.seed().display())).trim().to_owned();
    assert!(made.contains(&other) && made.contains("All load balancers of this site need this very file"), "{made}");
    bed.done("backend set web 10.0.1.11 --weight 50");
    assert_eq!(hashes_by(&bed), before);

    let reported =
        format!("node: hash_seed changed (fingerprint {FINGERPRINT} → {other}): every flow moves to another slot");
    let diff = bed.naru("diff");
    assert!(diff.code == 1 && diff.out.contains(&reported), "{} {}", diff.code, diff.out);
    let applied = bed.done("apply");
    assert!(applied.contains(&reported), "{applied}");
    let after = hashes_by(&bed);
    assert!(after.0 != before.0 && after.1 == other, "{after:?}");
    assert_eq!(bed.naru("diff").code, 0);

    // Nor does a start after a crash; one after a clean stop does, and tells of it.
    bed.end(Signal::SIGKILL);
    bed.write_seed(SEED);
    bed.start(&[]);
    assert_eq!(hashes_by(&bed), after);
    let kept = format!("nobody applied; the seed with the fingerprint {other} stays in force until `naru apply`");
    assert!(bed.log().contains(&kept), "{}", bed.log());
    assert_eq!(bed.naru("diff").code, 1);
    bed.end(Signal::SIGTERM);
    bed.start(&[]);
    assert_eq!(hashes_by(&bed).1, FINGERPRINT);
    let reported = format!("hash_seed changed (fingerprint {other} → {FINGERPRINT})");
    assert!(bed.log().contains(&reported), "{}", bed.log());
    assert!(!bed.log().contains("0001020304"), "the seed is logged");
    bed.end(Signal::SIGTERM);
}

#[test]
#[ignore = "needs root"]
fn a_broken_hash_seed_changes_nothing() {
    let mut bed = Bed::new(VIPS);
    bed.start(&[]);
    let before = hashes_by(&bed);
    fs::set_permissions(bed.seed(), fs::Permissions::from_mode(0o644)).unwrap();
    for line in ["apply", "diff"] {
        let said = bed.naru(line);
        assert!(said.code > 1 && said.err.contains("`chmod 600 "), "{line}: {} {}", said.code, said.err);
    }
    bed.done("backend drain web 10.0.1.12");
    assert_eq!(hashes_by(&bed), before);

    // Nor does a start.
    bed.end(Signal::SIGTERM);
    bed.write_seed("no seed\n");
    let check = bed.naru("check");
    assert!(check.code == 2 && check.err.contains("something else than hexadecimal digits"), "{}", check.err);
    bed.start(&[]);
    assert_eq!(hashes_by(&bed).1, FINGERPRINT);
    let kept = "the seed with the fingerprint 4c5b9787 stays in force until `naru apply`";
    assert!(bed.log().contains(kept), "{}", bed.log());
    assert_eq!(bed.json("status")["problems"][0]["kind"], "hash-seed", "{}", bed.json("status"));
    bed.write_seed(SEED);
    bed.done("apply");
    assert_eq!(bed.json("status")["problems"], serde_json::json!([]));
    bed.end(Signal::SIGTERM);
}

#[test]
#[ignore = "needs root"]
fn without_a_hash_seed_the_operator_is_warned() {
    let mut bed = Bed::new(VIPS);
    let line = format!("hash_seed_file = \"{}\"\n", bed.seed().display());
    bed.replace(&line, "");
    let warning = "there is no hash seed, so anyone can compute packets that all meet on one backend";
    let check = bed.naru("check");
    assert!(check.code == 0 && check.err.contains(warning), "{}", check.err);
    bed.start(&[]);
    assert!(bed.done("status").contains(warning), "{}", bed.done("status"));
    bed.write(&bed.read().replace("metrics =", &format!("{line}metrics =")));
    let applied = bed.done("apply");
    assert!(applied.contains("(fingerprint none → 4c5b9787)"), "{applied}");
    assert!(!bed.done("status").contains(warning), "{}", bed.done("status"));
    bed.end(Signal::SIGTERM);
}
