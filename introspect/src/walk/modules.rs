//! Loaded modules: `lsmod`, from the kernel's own list.

use honeyvmm::memory::Gva;
use serde::Serialize;

use super::{Listing, WalkError, list};
use crate::symbols::Symbols;
use crate::view::Look;
use crate::view::layout::{Field, Snapshot, Unknown, layout, size_of, symbol};

/// Steps that suffice for any honest number of modules.
pub const STEPS_MAX: u32 = 1 << 20;
/// `MODULE_REF_BASE`: the list's own reference, which is not shown.
const REFERENCES_BASE: i32 = 1;
/// Letters of `taint_flags` in `kernel/panic.c` that a module can have, by bit.
const TAINTS: [(u32, char); 7] = [(0, 'P'), (1, 'F'), (10, 'C'), (12, 'O'), (13, 'E'), (15, 'K'), (18, 'N')];

layout! {
    ModuleLayout = "module" {
        state: "state",
        list: "list",
        name: "name",
        taints: "taints",
        users: "source_list",
        references: "refcnt",
    }
}

layout! {
    UseLayout = "module_use" {
        node: "source_list",
        user: "source",
    }
}

/// Where a module lies: one piece for good and one for its start, or, from 6.4 on, a piece for each kind.
#[derive(Debug, Clone)]
enum Pieces {
    Two { base: Field, sizes: [Field; 2] },
    Many { pieces: Field, piece_bytes: u64, base: Field, size: Field },
}

/// What a module is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum ModuleState {
    /// Running.
    Live,
    /// Being started.
    Loading,
    /// Being ended.
    Unloading,
    /// A number that means nothing.
    Unknown,
}

/// A module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Module {
    /// Its `struct module`.
    #[serde(skip)]
    pub at: Gva,
    /// Name.
    pub name: String,
    /// Bytes that it takes.
    pub size: u64,
    /// Where its text is.
    pub address: u64,
    /// How many use it.
    pub references: i32,
    /// Modules among them.
    pub used_by: Vec<String>,
    /// What it is doing.
    pub state: ModuleState,
    /// What it taints the kernel with, as letters.
    pub taints: String,
}

/// Where the list is.
#[derive(Debug, Clone)]
pub struct Modules {
    head: Gva,
    module: ModuleLayout,
    uses: UseLayout,
    pieces: Pieces,
}

impl Modules {
    /// For the kernel of these symbols.
    ///
    /// # Errors
    /// [`Unknown`].
    pub fn of(symbols: &Symbols) -> Result<Self, Unknown> {
        Ok(Self {
            head: symbol(symbols, "modules")?,
            module: ModuleLayout::of(symbols)?,
            uses: UseLayout::of(symbols)?,
            pieces: Pieces::of(symbols)?,
        })
    }

    /// All modules of the list, the newest first, as in `/proc/modules`.
    #[must_use]
    pub fn list(&self, look: &Look<'_>) -> Listing<Module> {
        let nodes = list::nodes(look, self.head);
        let mut listing = Listing { items: Vec::new(), incomplete: nodes.incomplete };
        for node in nodes.items {
            match self.module(look, self.module.list.container(node)) {
                Ok(module) => listing.items.push(module),
                Err(error) if list::is_linked(look, node) => listing.note(error),
                Err(_) => {}
            }
        }
        listing
    }

    fn module(&self, look: &Look<'_>, at: Gva) -> Result<Module, WalkError> {
        let layout = &self.module;
        let module = layout.read(look, at)?;
        let (address, size) = self.pieces.place(look, at)?;
        Ok(Module {
            at,
            name: module.text(layout.name),
            size,
            address,
            references: module.i32(layout.references).wrapping_sub(REFERENCES_BASE),
            used_by: self.users(look, &module)?,
            state: match module.u32(layout.state) {
                0 => ModuleState::Live,
                1 | 3 => ModuleState::Loading,
                2 => ModuleState::Unloading,
                _ => ModuleState::Unknown,
            },
            taints: letters(module.u64(layout.taints)),
        })
    }

    fn users(&self, look: &Look<'_>, module: &Snapshot) -> Result<Vec<String>, WalkError> {
        let nodes = list::nodes(look, self.module.users.of(module.at));
        if let Some(error) = nodes.incomplete {
            return Err(error);
        }
        let name = |node| {
            let user = self.uses.read(look, self.uses.node.container(node))?.pointer(self.uses.user);
            Ok(self.module.read(look, user)?.text(self.module.name))
        };
        nodes.items.into_iter().map(name).collect()
    }
}

impl Pieces {
    fn of(symbols: &Symbols) -> Result<Self, Unknown> {
        let field = |path, shown| Field::find(symbols, "module", path, shown);
        let Ok(pieces) = field("mem", "module.mem") else {
            let base = field("core_layout.base", "module.core_layout.base")?;
            let core = field("core_layout.size", "module.core_layout.size")?;
            let start = field("init_layout.size", "module.init_layout.size")?;
            return Ok(Self::Two { base, sizes: [core, start] });
        };
        Ok(Self::Many {
            pieces,
            piece_bytes: size_of(symbols, "module_memory")?.max(1),
            base: Field::find(symbols, "module_memory", "base", "module_memory.base")?,
            size: Field::find(symbols, "module_memory", "size", "module_memory.size")?,
        })
    }

    /// Where the text of the module at `module` is, and how many bytes it takes in all.
    fn place(&self, look: &Look<'_>, module: Gva) -> Result<(u64, u64), WalkError> {
        match self {
            Self::Two { base, sizes } => {
                let [core, start] = sizes.map(|size| look.u32(size.of(module)));
                Ok((look.u64(base.of(module))?, u64::from(core?) + u64::from(start?)))
            }
            Self::Many { pieces, piece_bytes, base, size } => {
                let all = pieces.of(module);
                let mut bytes = 0;
                for index in 0..pieces.bytes / piece_bytes {
                    bytes += u64::from(look.u32(size.of(Gva(all.0.wrapping_add(index * piece_bytes))))?);
                }
                // `MOD_TEXT` is the first.
                Ok((look.u64(base.of(all))?, bytes))
            }
        }
    }
}

fn letters(taints: u64) -> String {
    TAINTS.iter().filter(|(bit, _)| taints >> bit & 1 != 0).map(|(_, letter)| letter).collect()
}
