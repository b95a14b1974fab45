//! What strangers do to the daemon who can reach `/metrics`, and other users of its host who can reach its socket, and
//! mean no good: it goes on reading and changing for those who may.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    os::{
        fd::AsFd as _,
        unix::{fs::PermissionsExt as _, net::UnixStream},
    },
    path::PathBuf,
    thread::{self, sleep},
    time::{Duration, Instant},
};

use naru_tests::{
    lab::Lab,
    naru::{METRICS, Naru},
    user::as_user,
    vip_text::VipText,
};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::{
        socket::{setsockopt, sockopt::RcvBuf},
        stat::Mode,
    },
    unistd::mkfifo,
};
use patience::LIMIT;

/// VIPs of ten backends each: a scrape of some five megabytes, which no socket's buffers hold.
const VIPS: usize = 1000;

/// What is wanted of a quiet machine; tests run beside others on a busy one.
const WANTED: Duration = Duration::from_millis(100);

/// After so long without progress the daemon ends a scrape.
const STALL: Duration = Duration::from_secs(10);

const IDLE: usize = 2000;
const SLOW: usize = 20;

fn vips() -> String {
    let backends = (1..=10).map(|host| format!("10.99.0.{host}"));
    let vip = |number: usize| {
        let address = format!("203.0.{}.{}", 113 + number / 250, 1 + number % 250);
        let vip = VipText::new(format_args!("vip{number}"), address, ["tcp/80"], "ipip").value("slots", 1009);
        vip.backends(backends.clone()).to_string()
    };
    (0..VIPS).map(vip).collect()
}

const WEB: &str = "[[vip]]\nname = \"web\"\naddress = \"203.0.113.10\"\nports = [\"tcp/80\"]\nforward = \"ipip\"\n\
                   backends = [{ address = \"10.0.1.11\", weight = 100 }]\n";

/// How long a command takes.
fn time(naru: &Naru, command: &[&str]) -> Duration {
    let begun = Instant::now();
    naru.cli(command).unwrap();
    begun.elapsed()
}

/// How long the slowest of some reads and changes takes.
fn slowest(naru: &Naru) -> Duration {
    let commands: [&[&str]; 5] = [
        &["status"],
        &["backend", "drain", "vip7", "10.99.0.3"],
        &["backend", "restore", "vip7", "10.99.0.3"],
        &["backend", "set", "vip7", "10.99.0.3", "--weight", "7"],
        &["backend", "set", "vip7", "10.99.0.3", "--weight", "8"],
    ];
    let times = (0..3).flat_map(|_| commands).map(|command| time(naru, command));
    times.max().unwrap_or_default()
}

/// Connects as many do who say nothing, and as a few do who ask and then read a byte now and then. Whoever the daemon
/// sends away comes no more.
fn crowd() -> (Vec<TcpStream>, Vec<TcpStream>) {
    let connect = || TcpStream::connect(METRICS).unwrap();
    let slow = || {
        let mut stream = connect();
        setsockopt(&stream.as_fd(), RcvBuf, &4096).unwrap();
        // Others may have driven this one out already.
        let _ = stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
        let _ = stream.read(&mut [0]);
        stream
    };
    let idle = (0..IDLE).map(|_| connect()).collect();
    (idle, (0..SLOW).map(|_| slow()).collect())
}

#[test]
#[ignore = "needs root"]
fn scrapers_that_idle_or_do_not_read_are_in_nobodys_way() {
    let lab = Lab::builder().build().unwrap();
    let mut naru = Naru::prepare(&lab, &Naru::node(&lab, &vips())).unwrap();
    // No more than most service managers give.
    naru.limit_open_files(1024);
    naru.restart().unwrap();
    // It serves the socket first.
    naru.cli(&["status"]).unwrap();
    let size = naru.metrics().unwrap().len();
    assert!(size > 4_000_000, "a scrape has only {size} bytes");
    let alone = slowest(&naru);
    let memory = |naru: &Naru| naru.memory("VmRSS").unwrap();
    let before = memory(&naru);

    let mut after = Vec::new();
    let mut crowds = Vec::new();
    let mut worst = Duration::ZERO;
    for _ in 0..2 {
        crowds.push(lab.balancer().netns().run(crowd));
        worst = worst.max(slowest(&naru));
        let text = naru.metrics().unwrap();
        assert!(text.ends_with("# EOF\n"), "a scrape is cut short");
        after.push(memory(&naru));
    }
    let megabytes = |bytes: u64| bytes >> 20;
    println!(
        "slowest of {IDLE} idle and {SLOW} slow readers beside: {worst:?}, alone {alone:?} (wanted: {WANTED:?}); \
         memory: {} MiB, then {:?}",
        megabytes(before),
        after.iter().map(|bytes| megabytes(*bytes)).collect::<Vec<_>>()
    );
    // What it takes depends on who else uses this machine; who waits for a reader waits until that is ended.
    assert!(worst < STALL, "a command took {worst:?}, {alone:?} without the readers");
    let most = *after.iter().max().unwrap();
    assert!(most < before + (64 << 20), "{} MiB became {} MiB", megabytes(before), megabytes(most));
    assert!(after[1] < after[0] + (16 << 20), "memory grows with connections: {after:?}");

    // The places are few, and those who do not read lose theirs, so that the kernel keeps nothing for them either.
    let descriptors = std::fs::read_dir(format!("/proc/{}/fd", naru.pid().unwrap())).unwrap().count();
    assert!(descriptors < 300, "{descriptors} descriptors are open in the daemon");
    naru.wait_for("nothing waits for who does not read", Duration::from_secs(60), |naru| {
        let unread = unread(naru)?;
        anyhow::ensure!(unread == 0, "{unread} bytes wait to be read");
        Ok(true)
    })
    .unwrap();
    drop(crowds);
}

/// Bytes of scrapes that the kernel holds and nobody reads.
fn unread(naru: &Naru) -> anyhow::Result<u64> {
    let port: SocketAddr = METRICS.parse()?;
    let port = format!(":{:04X}", port.port());
    let sockets = std::fs::read_to_string(format!("/proc/{}/net/tcp", naru.pid()?))?;
    let waiting = sockets.lines().skip(1).filter_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let queued = fields.get(1).filter(|local| local.ends_with(&port)).and(fields.get(4))?;
        u64::from_str_radix(queued.split_once(':')?.0, 16).ok()
    });
    Ok(waiting.sum())
}

/// The first of some users who are in no group that the daemon knows.
const STRANGER: u32 = 64_000;

/// A daemon whose socket every user of the host may read from; it fails where a test says so in the directory `faults`.
fn open_to_all(lab: &Lab, vips: &str) -> Naru {
    let config = Naru::node(lab, vips).replacen("[node]\n", "[node]\nreaders = \"all\"\n", 1);
    let mut naru = Naru::prepare(lab, &config).unwrap();
    fs::create_dir(lab.dir().join("faults")).unwrap();
    fs::set_permissions(lab.dir(), fs::Permissions::from_mode(0o755)).unwrap();
    naru.restart_in(&[], &[("NARU_FAULTS", &lab.dir().join("faults"))]).unwrap();
    naru.cli(&["status"]).unwrap();
    let mode = |_: &Naru| Ok(fs::metadata(socket(lab))?.permissions().mode() & 0o777 == 0o666);
    naru.wait_for("others may connect", LIMIT, mode).unwrap();
    naru
}

fn socket(lab: &Lab) -> PathBuf {
    lab.dir().join("naru.sock")
}

/// A connection to the socket by this user, who says nothing.
fn connect_as(user: u32, lab: &Lab) -> UnixStream {
    let stream = as_user(user, || UnixStream::connect(socket(lab))).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream
}

/// The same, who asks for `path` and has not read the answer yet.
fn ask_as(user: u32, lab: &Lab, path: &str) -> UnixStream {
    let mut stream = connect_as(user, lab);
    // The daemon may have ended it already.
    let _ = write!(stream, "GET {path} HTTP/1.1\r\nHost: naru\r\nConnection: close\r\n\r\n");
    stream
}

/// A whole answer, head and body.
fn answer_to(user: u32, lab: &Lab, path: &str) -> io::Result<String> {
    let mut answer = String::new();
    ask_as(user, lab, path).read_to_string(&mut answer).map(|_| answer)
}

#[test]
#[ignore = "needs root"]
fn connections_to_the_socket_are_made_at_no_operators_expense() {
    if !patience::has_faults("connections of strangers while a disk hangs") {
        return;
    }
    let lab = Lab::builder().backends(1).build().unwrap();
    let naru = open_to_all(&lab, WEB);
    let (held, flushing) = (lab.dir().join("faults/held"), lab.dir().join("faults/flushing"));
    naru.write_config(&naru.config().unwrap().replacen("weight = 100", "weight = 50", 1)).unwrap();
    fs::write(&held, "").unwrap();
    thread::scope(|scope| {
        let apply = scope.spawn(|| naru.cli(&["apply"]));
        naru.wait_for("the apply waits for the disk", LIMIT, |_| Ok(flushing.exists())).unwrap();
        // Many users with a connection each, one with many, and many of root's own.
        let users = (0..100).chain([0; 100]).map(|user| STRANGER + user);
        let mut silent: Vec<_> = users.map(|user| connect_as(user, &lab)).collect();
        naru.cli(&["status"]).unwrap();
        silent.extend((0..100).map(|_| UnixStream::connect(socket(&lab)).unwrap()));
        silent.extend((0..100).map(|user| connect_as(STRANGER + user, &lab)));
        naru.cli(&["status"]).unwrap();
        assert!(!apply.is_finished(), "{:?}", apply.join());
        fs::remove_file(&held).unwrap();
        apply.join().unwrap().unwrap();
    });
    let backends = naru.cli(&["backend", "list", "web"]).unwrap();
    assert!(backends.contains("50"), "{backends}");
}

/// Asks for something large and reads it so slowly that it takes minutes; how much that was when the daemon had enough
/// of it.
fn read_slowly(user: u32, lab: &Lab) -> usize {
    let mut stream = ask_as(user, lab, "/v1/backends");
    let mut total = 0;
    while let Ok(read @ 1..) = stream.read(&mut [0; 4096]) {
        total += read;
        sleep(Duration::from_millis(200));
    }
    total
}

#[test]
#[ignore = "needs root"]
fn slow_readers_of_large_answers_are_in_nobodys_way() {
    let lab = Lab::builder().build().unwrap();
    let naru = open_to_all(&lab, &vips());
    let whole = answer_to(STRANGER, &lab, "/v1/backends").unwrap().len();
    assert!(whole > 2_000_000, "the answer has only {whole} bytes");
    thread::scope(|scope| {
        let lab = &lab;
        let slow: Vec<_> = (1..=4).map(|user| scope.spawn(move || read_slowly(STRANGER + user, lab))).collect();
        let refused = |_: &Naru| Ok(answer_to(STRANGER, lab, "/v1/backends")?.starts_with("HTTP/1.1 503"));
        naru.wait_for("all turns at large answers are taken", LIMIT, refused).unwrap();
        assert!(!slow.iter().any(|reader| reader.is_finished()), "they read no more: this proves nothing");
        let begun = Instant::now();
        for user in 0..=4 {
            let status = answer_to(STRANGER + user, lab, "/v1/status").unwrap();
            assert!(status.starts_with("HTTP/1.1 200") && status.contains("\"problems\""), "{status}");
        }
        println!("five readers were answered in {:?} beside slow ones", begun.elapsed());
        assert!(!slow.iter().any(|reader| reader.is_finished()), "they were waited for");
        let backends = naru.cli(&["backend", "list", "--output", "json"]).unwrap();
        assert!(backends.len() > 2_000_000);
        for reader in slow {
            let read = reader.join().unwrap();
            assert!(read < whole, "a slow reader may read on for ever");
        }
        assert_eq!(answer_to(STRANGER, lab, "/v1/backends").unwrap().len(), whole);
    });
}

/// Whether no answer comes for the time being.
fn is_unanswered(mut asked: UnixStream) -> bool {
    asked.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    asked.read(&mut [0]).is_err()
}

/// Threads of the daemon.
fn threads(naru: &Naru) -> usize {
    fs::read_dir(format!("/proc/{}/task", naru.pid().unwrap())).unwrap().count()
}

/// Two readers ask twice each, and hang up.
fn ask_and_hang_up(lab: &Lab, path: &str) {
    let asked = [1, 1, 2, 2].map(|user| ask_as(STRANGER + user, lab, path));
    sleep(Duration::from_millis(20));
    drop(asked);
}

/// An operator is served, and scrapes are, while readers who ask and hang up keep reads of `path` under way that do not
/// end.
fn serves_operators_beside(lab: &Lab, naru: &Naru, path: &str, commands: &[&[&str]], before: usize) {
    (0..50).for_each(|_| ask_and_hang_up(lab, path));
    for command in commands {
        naru.cli(command).unwrap();
    }
    assert!(naru.metrics().unwrap().ends_with("# EOF\n"));
    let threads = threads(naru);
    assert!(threads < before + 20, "{before} threads became {threads}");
}

#[test]
#[ignore = "needs root"]
fn readers_who_ask_and_hang_up_hold_up_no_operator() {
    if !patience::has_faults("readers who hang up") {
        return;
    }
    let lab = Lab::builder().backends(1).build().unwrap();
    let naru = open_to_all(&lab, WEB);
    let before = threads(&naru);
    // From now on a read of the counters does not end.
    let unread = lab.dir().join("faults/unread");
    fs::write(&unread, "stats").unwrap();
    let third = || ask_as(STRANGER + 3, &lab, "/v1/vips");
    let has_no_turn = |_: &Naru| {
        ask_and_hang_up(&lab, "/v1/stats");
        Ok(is_unanswered(third()))
    };
    naru.wait_for("all turns of readers are taken", LIMIT, has_no_turn).unwrap();
    let commands: [&[&str]; 5] =
        [&["vip", "list"], &["interface", "list"], &["status"], &["flows"], &["backend", "drain", "web", "10.0.1.11"]];
    serves_operators_beside(&lab, &naru, "/v1/stats", &commands, before);
    assert!(is_unanswered(third()), "readers had turns left: this proves nothing");
    fs::remove_file(&unread).unwrap();
    let vips = answer_to(STRANGER + 3, &lab, "/v1/vips").unwrap();
    assert!(vips.starts_with("HTTP/1.1 200") && vips.contains("\"web\""), "{vips}");
}

#[test]
#[ignore = "needs root"]
fn reads_of_a_config_file_that_hangs_hold_up_nothing_that_needs_no_file() {
    if !patience::has_faults("a config file that hangs") {
        return;
    }
    let lab = Lab::builder().backends(1).build().unwrap();
    let naru = open_to_all(&lab, WEB);
    let before = threads(&naru);
    let unread = lab.dir().join("faults/unread");
    fs::write(&unread, "config").unwrap();
    let third = || ask_as(STRANGER + 3, &lab, "/v1/diff");
    let commands: [&[&str]; 4] = [&["vip", "list"], &["stats"], &["flows"], &["backend", "drain", "web", "10.0.1.11"]];
    serves_operators_beside(&lab, &naru, "/v1/diff", &commands, before);
    assert!(is_unanswered(third()), "reads of the file end: this proves nothing");
    // Nor other reads of those who may only read.
    let vips = answer_to(STRANGER + 3, &lab, "/v1/vips").unwrap();
    assert!(vips.starts_with("HTTP/1.1 200") && vips.contains("\"web\""), "{vips}");
    fs::remove_file(&unread).unwrap();
    let diff = answer_to(STRANGER + 3, &lab, "/v1/diff").unwrap();
    assert!(diff.starts_with("HTTP/1.1 200"), "{diff}");
}

/// Has looking up users and groups take for ever, for this thread and the daemons that it has started.
fn without_a_directory(lab: &Lab) {
    let fifo = lab.dir().join("fifo");
    mkfifo(&fifo, Mode::from_bits_truncate(0o644)).unwrap();
    for file in ["/etc/passwd", "/etc/group"] {
        mount(Some(&fifo), file, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
    }
}

#[test]
#[ignore = "needs root"]
fn root_waits_for_no_directory_of_users() {
    let lab = Lab::builder().backends(1).build().unwrap();
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_PRIVATE | MsFlags::MS_REC, None::<&str>).unwrap();
    let naru = open_to_all(&lab, "");
    let before = threads(&naru);
    without_a_directory(&lab);
    for _ in 0..3 {
        let asked: Vec<_> = (0..60).map(|user| ask_as(STRANGER + user % 20, &lab, "/v1/status")).collect();
        naru.cli(&["status"]).unwrap();
        naru.cli(&["apply"]).unwrap();
        // Whoever goes leaves no room for the next one: what was begun for him goes on.
        drop(asked);
    }
    let threads = threads(&naru);
    assert!(threads < before + 30, "{before} threads became {threads}");
    assert!(is_unanswered(ask_as(STRANGER, &lab, "/v1/status")), "nobody was looked up: this proves nothing");
}
