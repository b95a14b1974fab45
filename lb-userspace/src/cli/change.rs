//! The commands that change: edits of the config file that the daemon applies before it answers.

use super::{
    args::{BackendEdit, BackendName, BackendOperation, Detach, Global, VipEdit, Why},
    exit::{Exit, Failure},
    place::place,
    table::Output,
    wait::Watch,
};
use crate::{
    api::{
        client::{Client, ClientError},
        types::Applied,
    },
    dataplane,
    model::{Operate, Verb, keys::NothingElse},
    source::file::edit::{Edit, NewBackend, NewVip, VipValues},
};

/// `naru apply`
pub async fn apply(client: Client, output: Output, force: bool) -> Result<Exit, Failure> {
    report(output, &client.apply(force).await?);
    Ok(Exit::Ok)
}

/// `naru backend …`: a change, and what is to be waited for after it.
pub async fn edit_backend(client: Client, output: Output, edit: BackendEdit) -> Result<Exit, Failure> {
    let watch = Watch::after(&edit);
    finish(&client, output, &client.edit(&edit.into()).await?, watch).await
}

/// `naru backend drain`, `down` and `restore`, and what is to be waited for after it.
pub async fn operate(client: Client, output: Output, operation: BackendOperation) -> Result<Exit, Failure> {
    let watch = Watch::after_operation(&operation);
    finish(&client, output, &client.operate(&operation.into()).await?, watch).await
}

/// Reports what was done, and waits for what is to be waited for after it.
async fn finish(client: &Client, output: Output, applied: &Applied, watch: Option<Watch>) -> Result<Exit, Failure> {
    report(output, applied);
    match watch {
        Some(watch) => watch.run(client).await,
        None => Ok(Exit::Ok),
    }
}

/// `naru vip …`
pub async fn edit(client: Client, output: Output, edit: Edit) -> Result<Exit, Failure> {
    report(output, &client.edit(&edit).await?);
    Ok(Exit::Ok)
}

/// `naru interface attach`
pub async fn attach(client: Client, output: Output, interface: String) -> Result<Exit, Failure> {
    edit(client, output, Edit::InterfaceAdd { name: interface }).await
}

/// `naru interface detach`: through the daemon, or by its pins where none runs.
pub async fn detach(client: Client, global: &Global, options: Detach) -> Result<Exit, Failure> {
    let names = match client.interfaces().await {
        Ok(interfaces) if options.all => interfaces.into_iter().filter(|i| i.configured).map(|i| i.name).collect(),
        Ok(_) => Vec::from_iter(options.interface),
        Err(ClientError::NoDaemon { .. }) => return detach_pins(global, &options),
        Err(error) => return Err(error.into()),
    };
    for name in names {
        report(global.output, &client.edit(&Edit::InterfaceRemove { name }).await?);
    }
    Ok(Exit::Ok)
}

impl From<VipEdit> for Edit {
    fn from(edit: VipEdit) -> Self {
        match edit {
            VipEdit::Add { name, address, ports, forward, health, given, backends } => {
                let backend =
                    |(address, weight)| NewBackend { address, weight, state: None, mac: None, mtu: None, health: None };
                let backends = backends.into_iter().map(backend).collect();
                Self::VipAdd(NewVip { name, address, ports, forward, health, given, backends, rest: NothingElse })
            }
            VipEdit::Set { name, address, ports, forward, health, given } => {
                Self::VipSet(VipValues { name, address, ports, forward, health, given, rest: NothingElse })
            }
            VipEdit::Remove { name } => Self::VipRemove { name },
        }
    }
}

impl From<BackendEdit> for Edit {
    fn from(edit: BackendEdit) -> Self {
        match edit {
            BackendEdit::Add { backend: BackendName { vip, address }, weight, state, mac, mtu, health } => {
                Self::BackendAdd { vip, address, weight, state, mac, mtu, health }
            }
            BackendEdit::Set { backend: BackendName { vip, address }, weight, state, mac, mtu, health } => {
                Self::BackendSet { vip, address, weight, state, mac, mtu, health }
            }
            BackendEdit::Remove { backend: BackendName { vip, address }, .. } => Self::BackendRemove { vip, address },
        }
    }
}

impl From<BackendOperation> for Operate {
    fn from(operation: BackendOperation) -> Self {
        let (op, BackendName { vip, address }, Why { why }, deadline, lasting) = match operation {
            BackendOperation::Drain { backend, why, deadline, lasting, wait: _ } => {
                (Verb::Drain, backend, why, deadline, lasting.lasting)
            }
            BackendOperation::Maintain { backend, why, deadline, lasting, wait: _ } => {
                (Verb::Drain, backend, why, deadline, Some(lasting))
            }
            BackendOperation::Down { backend, why, lasting } => (Verb::Down, backend, why, None, lasting.lasting),
            BackendOperation::Restore { backend, why } => (Verb::Restore, backend, why, None, None),
        };
        Self { op, vip, address, why, deadline, lasting }
    }
}

/// Takes the data plane out of the kernel by its pins, because no daemon runs that could.
fn detach_pins(global: &Global, options: &Detach) -> Result<Exit, Failure> {
    let bpffs = place(&options.bpffs, &global.config, |node| node.bpffs)?;
    let failed = |error: dataplane::Error| Failure::new(Exit::Failed, error);
    let place = bpffs.display();
    let detached = match &options.interface {
        None => dataplane::detach_everything(&bpffs).map_err(failed)?,
        Some(name) if dataplane::detach_interface(&bpffs, name).map_err(failed)? => vec![name.clone()],
        Some(name) => {
            return Err(Failure::new(Exit::Negative, format!("{name} is not attached by any pin below {place}")));
        }
    };
    eprintln!(
        "no daemon runs: took the pins below {place} away; {} is as it was, so that a daemon attaches again what it \
         lists",
        global.config.display()
    );
    global.output.print(&detached, |names| names.iter().map(|name| format!("interface {name}: detached\n")).collect());
    Ok(Exit::Ok)
}

/// Prints what was done; warnings go to stderr.
fn report(output: Output, applied: &Applied) {
    for warning in &applied.warnings {
        eprintln!("warning: {warning}");
    }
    output.print(applied, |applied| {
        if applied.changes.is_empty() {
            return "nothing to change\n".to_owned();
        }
        applied.changes.iter().map(|change| format!("{change}\n")).collect()
    });
}
