//! Modules that have left the list of modules and are still there: in sysfs' set, in the tree that tells addresses apart, or as memory.

use std::collections::{BTreeMap, BTreeSet};

use honeyvmm::memory::Gva;

use super::finding::{Certainty, Finding, Findings, What};
use crate::symbols::Symbols;
use crate::view::layout::{Field, Unknown, layout, size_of, symbol};
use crate::view::{Look, ViewError};
use crate::walk::modules::Module;
use crate::walk::{WalkError, list};

/// Nodes of the tree that are visited. A kernel has some hundred modules, each with up to seven nodes.
const NODES_MAX: usize = 1 << 14;
/// Areas of kernel memory that are looked at.
const AREAS_MAX: usize = 1 << 17;
/// Functions that ask for a module's memory; what they are inlined into is another.
const LOADERS: [&str; 5] = [
    "move_module",
    "layout_and_allocate",
    "load_module",
    "module_memory_alloc",
    "layout_and_allocate.isra.0",
];
/// Bytes of a name.
const NAME_BYTES_MAX: usize = 64;

layout! {
    KobjectLayout = "module_kobject" {
        kobject: "kobj",
        module: "mod",
    }
}

layout! {
    AreaLayout = "vmap_area" {
        start: "va_start",
        vm: "vm",
    }
}

/// Where modules are, besides their list.
#[derive(Debug, Clone)]
pub struct Unlisted {
    name: Field,
    bases: Vec<Field>,
    set: SetParts,
    tree: TreeParts,
    areas: Option<AreaParts>,
}

#[derive(Debug, Clone)]
struct SetParts {
    set: Gva,
    list: Field,
    entry: Field,
    layout: KobjectLayout,
}

#[derive(Debug, Clone)]
struct TreeParts {
    root: Gva,
    left: Field,
    right: Field,
    /// From the tree's node to `mod_tree_node`.
    node: Field,
    module: Field,
}

/// Before 6.9, when one list held all areas.
#[derive(Debug, Clone)]
struct AreaParts {
    head: Gva,
    node: Field,
    layout: AreaLayout,
    caller: Field,
}

/// A module that is in no list.
#[derive(Debug, Default)]
struct Seen {
    name: Option<String>,
    base: u64,
    by: BTreeSet<&'static str>,
}

impl Unlisted {
    /// For the kernel of these symbols.
    ///
    /// # Errors
    /// [`Unknown`].
    pub fn of(symbols: &Symbols) -> Result<Self, Unknown> {
        Ok(Self {
            name: Field::find(symbols, "module", "name", "module.name")?,
            bases: bases(symbols)?,
            set: SetParts::of(symbols)?,
            tree: TreeParts::of(symbols)?,
            areas: AreaParts::of(symbols).ok(),
        })
    }

    /// Tells the modules that are not among those of the list.
    ///
    /// # Errors
    /// [`WalkError`].
    pub fn check(
        &self,
        look: &Look<'_>,
        symbols: &Symbols,
        listed: &[Module],
        findings: &mut Findings,
    ) -> Result<(), WalkError> {
        let known: BTreeSet<Gva> = listed.iter().map(|module| module.at).collect();
        let mut unlisted = BTreeMap::<Gva, Seen>::new();
        let found = [("sysfs", self.set.modules(look)?), ("tree of addresses", self.tree.modules(look)?)];
        for (by, modules) in found {
            for module in modules.into_iter().filter(|module| !known.contains(module)) {
                let seen = unlisted.entry(module).or_default();
                seen.by.insert(by);
                if seen.name.is_none() {
                    let name = look.text(self.name.of(module), NAME_BYTES_MAX).unwrap_or_default();
                    seen.name = Some(String::from_utf8_lossy(&name).into_owned());
                    seen.base = self.bases_of(look, module)?.first().copied().unwrap_or_default();
                }
            }
        }
        if let Some(areas) = &self.areas {
            let mut pieces = BTreeMap::new();
            for module in known.iter().chain(unlisted.keys()) {
                pieces.extend(self.bases_of(look, *module)?.into_iter().map(|base| (base, *module)));
            }
            for area in areas.of_modules(look, symbols)? {
                match pieces.get(&area) {
                    Some(module) if known.contains(module) => {}
                    Some(module) => _ = unlisted.entry(*module).or_default().by.insert("memory"),
                    None => {
                        let seen = unlisted.entry(Gva(area)).or_default();
                        seen.base = area;
                        seen.by.insert("memory");
                    }
                }
            }
        }
        // A module that is on its way in or out is in one book only, but not for long.
        unlisted.into_values().for_each(|seen| findings.push(Certainty::SeenTwice, seen.finding()));
        Ok(())
    }

    fn bases_of(&self, look: &Look<'_>, module: Gva) -> Result<Vec<u64>, ViewError> {
        self.bases.iter().map(|base| look.u64(base.of(module))).collect()
    }
}

impl Seen {
    fn finding(self) -> Finding {
        let by: Vec<&str> = self.by.into_iter().collect();
        Finding::Changed {
            what: What::HiddenModule,
            symbol: self.name.unwrap_or_else(|| "a module without a name".to_owned()),
            address: Gva(self.base),
            before: "in the list of modules".to_owned(),
            after: format!("not in the list of modules, seen in: {}", by.join(", ")),
        }
    }
}

/// Where a module's pieces begin: two of them, or, from 6.4 on, one of each kind.
fn bases(symbols: &Symbols) -> Result<Vec<Field>, Unknown> {
    let field = |path, shown| Field::find(symbols, "module", path, shown);
    let Ok(pieces) = field("mem", "module.mem") else {
        return Ok(vec![
            field("core_layout.base", "module.core_layout.base")?,
            field("init_layout.base", "module.init_layout.base")?,
        ]);
    };
    let bytes = size_of(symbols, "module_memory")?.max(1);
    let base = Field::find(symbols, "module_memory", "base", "module_memory.base")?;
    let piece = |index| Field { offset: pieces.offset + index * bytes + base.offset, bytes: base.bytes };
    Ok((0..pieces.bytes / bytes).map(piece).collect())
}

impl SetParts {
    fn of(symbols: &Symbols) -> Result<Self, Unknown> {
        Ok(Self {
            set: symbol(symbols, "module_kset")?,
            list: Field::find(symbols, "kset", "list", "kset.list")?,
            entry: Field::find(symbols, "kobject", "entry", "kobject.entry")?,
            layout: KobjectLayout::of(symbols)?,
        })
    }

    fn modules(&self, look: &Look<'_>) -> Result<BTreeSet<Gva>, WalkError> {
        let nodes = list::nodes(look, self.list.of(look.pointer(self.set)?));
        let mut modules = BTreeSet::new();
        for node in nodes.items {
            let at = self.layout.kobject.container(self.entry.container(node));
            // What is built in has an entry, and no module.
            let module = self.layout.read(look, at)?.target(self.layout.module);
            modules.extend(module);
        }
        nodes.incomplete.map_or(Ok(modules), Err)
    }
}

impl TreeParts {
    fn of(symbols: &Symbols) -> Result<Self, Unknown> {
        let trees = Field::find(symbols, "mod_tree_root", "root.tree", "mod_tree_root.root.tree")?;
        let root = Field::find(symbols, "rb_root", "rb_node", "rb_root.rb_node")?;
        Ok(Self {
            // The first of two that are alike.
            root: root.of(trees.of(symbol(symbols, "mod_tree")?)),
            left: Field::find(symbols, "rb_node", "rb_left", "rb_node.rb_left")?,
            right: Field::find(symbols, "rb_node", "rb_right", "rb_node.rb_right")?,
            node: Field::find(symbols, "mod_tree_node", "node.node", "mod_tree_node.node.node")?,
            module: Field::find(symbols, "mod_tree_node", "mod", "mod_tree_node.mod")?,
        })
    }

    fn modules(&self, look: &Look<'_>) -> Result<BTreeSet<Gva>, WalkError> {
        let (mut modules, mut visited) = (BTreeSet::new(), BTreeSet::new());
        let mut waiting = vec![look.pointer(self.root)?];
        while let Some(node) = waiting.pop() {
            if node.0 == 0 || !visited.insert(node) {
                continue;
            }
            if visited.len() > NODES_MAX {
                return Err(WalkError::TooMany { what: "nodes of the modules' tree", max: NODES_MAX });
            }
            waiting.push(look.pointer(self.left.of(node))?);
            waiting.push(look.pointer(self.right.of(node))?);
            modules.insert(look.pointer(self.module.of(self.node.container(node)))?);
        }
        Ok(modules)
    }
}

impl AreaParts {
    fn of(symbols: &Symbols) -> Result<Self, Unknown> {
        Ok(Self {
            head: symbol(symbols, "vmap_area_list")?,
            node: Field::find(symbols, "vmap_area", "list", "vmap_area.list")?,
            layout: AreaLayout::of(symbols)?,
            caller: Field::find(symbols, "vm_struct", "caller", "vm_struct.caller")?,
        })
    }

    /// Where areas begin that the loader of modules has asked for.
    fn of_modules(&self, look: &Look<'_>, symbols: &Symbols) -> Result<Vec<u64>, WalkError> {
        let nodes = list::nodes(look, self.head);
        if nodes.items.len() > AREAS_MAX {
            return Err(WalkError::TooMany { what: "areas of kernel memory", max: AREAS_MAX });
        }
        let mut found = Vec::new();
        for node in nodes.items {
            let area = self.layout.read(look, self.node.container(node))?;
            let Some(vm) = area.target(self.layout.vm) else { continue };
            // An area that goes this moment may have no reader any more.
            let Ok(caller) = look.pointer(self.caller.of(vm)) else { continue };
            let is_loader = symbols.nearest(caller).is_some_and(|(name, _)| LOADERS.contains(&name));
            if is_loader {
                found.push(area.u64(self.layout.start));
            }
        }
        nodes.incomplete.map_or(Ok(found), Err)
    }
}
