//! The instructions of a loaded program, as the kernel runs them: after the verifier has taken out what can never be
//! reached, and put look-ups in arrays in the place of calls.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, btree_map::Entry},
    fs, io,
    os::fd::{AsFd as _, AsRawFd as _},
};

use anyhow::{Context as _, bail, ensure};
use aya::programs::ProgramFd;
use aya_obj::generated::{bpf_cmd, bpf_insn, bpf_prog_info};

/// What a loaded program consists of.
pub struct Instructions {
    all: Vec<bpf_insn>,
    /// Name of the kernel's function by its distance from where calls are counted from.
    functions: HashMap<i32, String>,
}

/// What a call leads to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Callee {
    /// A function of the kernel, by its name there.
    Kernel(String),
    /// A function of the program, by its first instruction.
    Own(usize),
}

const PSEUDO_CALL: u8 = 1;

impl Instructions {
    /// Those of a program; none where the kernel does not tell what calls lead to.
    ///
    /// # Errors
    ///
    /// The kernel does not give them.
    pub fn of(program: &ProgramFd) -> anyhow::Result<Option<Self>> {
        let Some(functions) = functions()? else { return Ok(None) };
        let len = info(program, &mut [])?;
        // SAFETY: made of integers, of which zero is a value.
        let mut all = vec![unsafe { std::mem::zeroed::<bpf_insn>() }; len];
        ensure!(info(program, &mut all)? == len, "the program has changed its length");
        Ok(Some(Self { all, functions }))
    }

    /// Every call of the function that begins with the instruction `first`, in their order.
    ///
    /// # Errors
    ///
    /// An instruction is not known.
    pub fn calls_of(&self, first: usize) -> anyhow::Result<Vec<Callee>> {
        let reached = self.reached(first)?;
        reached.keys().filter_map(|index| self.call(*index).transpose()).collect()
    }

    /// The most calls of kernel functions on any way through the function that begins with the instruction `first`, of
    /// ways that come across none of `excepted`; and what those functions are.
    ///
    /// # Errors
    ///
    /// An instruction is not known, every way comes across one of `excepted`, or one goes in a circle.
    pub fn most_calls(
        &self,
        first: usize,
        excepted: impl Fn(&Callee) -> bool,
    ) -> anyhow::Result<(usize, BTreeSet<String>)> {
        let reached = self.reached(first)?;
        let mut most = BTreeMap::new();
        for index in self.in_order(first, &reached)? {
            let callee = self.call(index)?;
            let ways = match &callee {
                Some(callee) if excepted(callee) => None,
                _ if reached[&index].is_empty() => Some(0),
                _ => reached[&index].iter().filter_map(|next| most[next]).max(),
            };
            most.insert(index, ways.map(|calls| calls + usize::from(matches!(callee, Some(Callee::Kernel(_))))));
        }
        let count = most[&first].context("every way comes across what is excepted")?;
        // What is called on a way that leads to an end.
        let leads = |index: &usize| most[index].is_some();
        let names = reached.keys().filter(|index| leads(index)).filter_map(|index| match self.call(*index) {
            Ok(Some(Callee::Kernel(name))) => Some(name),
            _ => None,
        });
        Ok((count, names.collect()))
    }

    /// Those that are reached from `first`, each behind all that may come after it.
    fn in_order(&self, first: usize, reached: &BTreeMap<usize, Vec<usize>>) -> anyhow::Result<Vec<usize>> {
        let (mut order, mut begun, mut done) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
        let mut open = vec![first];
        while let Some(index) = open.last().copied() {
            let left: Vec<_> = reached[&index].iter().copied().filter(|next| !done.contains(next)).collect();
            if left.is_empty() {
                open.pop();
                if done.insert(index) {
                    order.push(index);
                }
            } else {
                ensure!(begun.insert(index) || left.iter().all(|next| !begun.contains(next)), "a loop at {index}");
                open.extend(left);
            }
        }
        Ok(order)
    }

    /// Every instruction that can be reached from `first`, with those that may come next.
    fn reached(&self, first: usize) -> anyhow::Result<BTreeMap<usize, Vec<usize>>> {
        let mut reached = BTreeMap::new();
        let mut open = vec![first];
        while let Some(index) = open.pop() {
            if let Entry::Vacant(place) = reached.entry(index) {
                open.extend(place.insert(self.next(index)?).iter());
            }
        }
        Ok(reached)
    }

    /// The instructions that may come behind one (RFC 9669 §4.3).
    fn next(&self, index: usize) -> anyhow::Result<Vec<usize>> {
        let instruction = self.all.get(index).with_context(|| format!("there is no instruction {index}"))?;
        let to =
            |offset: i64| usize::try_from(index as i64 + 1 + offset).context("a jump before the first instruction");
        let (class, operation) = (instruction.code & 7, instruction.code & 0xf0);
        let (short, long) = (i64::from(instruction.off), i64::from(instruction.imm));
        Ok(match (class, operation) {
            // The load of a 64-bit constant takes two.
            (0, _) if instruction.code == 0x18 => vec![to(1)?],
            (5, 0x00) => vec![to(short)?],
            (6, 0x00) => vec![to(long)?],
            (5, 0x80) => vec![to(0)?],
            (5, 0x90) => Vec::new(),
            (5 | 6, _) => vec![to(0)?, to(short)?],
            _ => vec![to(0)?],
        })
    }

    fn call(&self, index: usize) -> anyhow::Result<Option<Callee>> {
        let instruction = &self.all[index];
        if instruction.code & 0xf7 != 0x85 {
            return Ok(None);
        }
        if instruction.src_reg() == PSEUDO_CALL {
            return Ok(Some(Callee::Own((index as i64 + 1 + i64::from(instruction.imm)) as usize)));
        }
        match self.functions.get(&instruction.imm) {
            Some(name) => Ok(Some(Callee::Kernel(name.clone()))),
            None => bail!("instruction {index} calls what the kernel has no name for: {}", instruction.imm),
        }
    }
}

/// Reads a program's instructions, as many as fit. Returns how many there are.
fn info(program: &ProgramFd, instructions: &mut [bpf_insn]) -> anyhow::Result<usize> {
    // SAFETY: made of integers, of which zero is a value.
    let mut info: bpf_prog_info = unsafe { std::mem::zeroed() };
    info.xlated_prog_len = size_of_val(instructions) as u32;
    info.xlated_prog_insns = instructions.as_mut_ptr() as u64;
    #[repr(C)]
    struct Attr {
        fd: u32,
        len: u32,
        info: u64,
    }
    let len = size_of::<bpf_prog_info>() as u32;
    let mut attr = Attr { fd: program.as_fd().as_raw_fd() as u32, len, info: (&raw mut info) as u64 };
    let command = bpf_cmd::BPF_OBJ_GET_INFO_BY_FD;
    // SAFETY: the attributes of this command are these, and what they point to has the sizes that they say.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut attr, size_of::<Attr>()) };
    if result < 0 {
        return Err(io::Error::last_os_error()).context("the kernel does not describe the program");
    }
    Ok(info.xlated_prog_len as usize / size_of::<bpf_insn>())
}

/// The kernel's functions by their distance from the one that calls are counted from (`__bpf_call_base`,
/// kernel/bpf/core.c); none where it hides addresses.
fn functions() -> anyhow::Result<Option<HashMap<i32, String>>> {
    let text = fs::read_to_string("/proc/kallsyms").context("cannot read /proc/kallsyms")?;
    let symbols: Vec<(u64, &str)> = text
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let (address, _, name) = (words.next()?, words.next()?, words.next()?);
            Some((u64::from_str_radix(address, 16).ok()?, name))
        })
        .collect();
    let base = symbols.iter().find(|(_, name)| *name == "__bpf_call_base").map(|(address, _)| *address);
    let Some(base) = base.filter(|base| *base != 0) else { return Ok(None) };
    let near = symbols.into_iter().filter_map(|(address, name)| {
        let distance = i32::try_from(address.wrapping_sub(base).cast_signed()).ok()?;
        Some((distance, name.to_owned()))
    });
    Ok(Some(near.collect()))
}
