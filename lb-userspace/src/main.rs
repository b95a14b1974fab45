//! The `naru` binary.

fn main() -> std::process::ExitCode {
    lb_userspace::cli::main()
}
