/* Page tables. mfn == pfn, KVM isolates the domain, so an entry is stored as asked, with two exceptions: everything that ring 3 is to
 * use needs the U bit, and no entry may name a frame outside the guest's RAM but the shared pages.
 * Stores happen here and not in the VMM: KVM's shadow pages (PVM) see only what the guest itself writes. */
#include "shim.h"

#define MMU_NORMAL 0
#define MMU_MACHPHYS 1
#define MMU_PRESERVE_AD 2
/* update_va_mapping's flags: what is flushed, and where: here, everywhere, or by the bitmap that the rest points at. */
#define UVMF_KIND 3ul
#define UVMF_ALL 4ul
#define PTE_TOUCHED 0x60ul /* accessed, dirty */
#define STALE_MAX 8
#define BATCH_MAX 65536ul /* entries of one call; Linux sends up to 32 at boot, 512 when it pins */

/* May this entry be stored? */
static int entry_ok(u64 value)
{
	u64 frame = value & PTE_FRAME;
	return !(value & PTE_PRESENT) || frame < area.ram_bytes || frame - area.shared_gpa < area.shared_bytes;
}

static int is_own_slot(u64 entry_gpa)
{
	u64 table = entry_gpa & ~4095ul, index = (entry_gpa & 4095) / 8;
	return index >= 256 && index < 272 && (table == area.kernel_cr3 || table == area.user_cr3);
}

static void store(u64 entry_gpa, u64 value)
{
	volatile u64 *entry = phys(entry_gpa);
	if (value & PTE_PRESENT)
		value |= PTE_USER;
	/* A store to a table that KVM shadows costs a fault; most batches rewrite what is there. One word: other vcpus walk the table. */
	if (*entry != value)
		*entry = value;
}

/* The same, but the accessed and dirty bits stay as they are, also those that another vcpu's processor sets meanwhile. */
static void store_preserving(u64 entry_gpa, u64 value)
{
	volatile u64 *entry = phys(entry_gpa);
	u64 old = *entry, wanted;

	if (value & PTE_PRESENT)
		value |= PTE_USER;
	do {
		wanted = value | (old & PTE_TOUCHED);
		if (wanted == old)
			return;
	} while (!__atomic_compare_exchange_n(entry, &old, wanted, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST));
}

/* Gives an L4 table the shim's slots, in the view of its role. */
static void install_slots(u64 l4, int user)
{
	volatile u64 *table = phys(l4);
	for (int i = 0; i < L4_SLOTS; i++)
		if (table[L4_SLOT_FIRST + i] != area.slots[i][user])
			table[L4_SLOT_FIRST + i] = area.slots[i][user];
}

/* The tables allow what has faulted. Another vcpu may have allowed it just now (a guest kernel may take such a fault of its own for a bug):
 * it is tried again, but not for ever. */
static int is_stale(u64 at, u64 error)
{
	if (area.vcpus == 1 || error & ~0x1ful || error & 8)
		return 0;
	if (area.stale_at != at || area.stale_rip != area.regs.rip)
		area.stale_count = 0;
	area.stale_at = at;
	area.stale_rip = area.regs.rip;
	return area.stale_count++ < STALE_MAX;
}

/* A kernel-mode fault on a present page may only lack the U bit: tables that the guest filled before it pinned them have none.
 * Adds it a whole table at once (17 times in a boot). Returns whether anything changed. */
int add_user_bits(u64 at, u64 error)
{
	volatile u64 *entries[4];
	int n = 0, fixed = 0;
	u64 table = area.kernel_cr3;

	if (!(error & 1) || !guest_range_ok(at, 1))
		return 0;
	for (int level = 4; level >= 1; level--) {
		table &= PTE_FRAME;
		if (table >= area.ram_bytes)
			return 0;
		volatile u64 *entry = phys(table) + (at >> (12 + 9 * (level - 1)) & 511);
		u64 value = *entry;
		if (!(value & PTE_PRESENT) || (error & 2 && !(value & PTE_WRITE)) || (error & 16 && value & PTE_NX))
			return 0;
		entries[n++] = entry;
		if (level == 1 || (value & PTE_HUGE && level <= 3))
			break;
		table = value;
	}
	for (int i = 0; i < n; i++) {
		if (*entries[i] & PTE_USER)
			continue;
		volatile u64 *t = (volatile u64 *)((u64)entries[i] & ~4095ul);
		for (int k = 0; k < 512; k++)
			if ((t[k] & (PTE_PRESENT | PTE_USER)) == PTE_PRESENT && !(i == 0 && k >= 256 && k < 272))
				__atomic_fetch_or(&t[k], PTE_USER, __ATOMIC_RELAXED);
		fixed = 1;
	}
	if (fixed)
		count(COUNT_USER_BITS);
	else if (!is_stale(at, error))
		return 0;
	area.need_flush = 1;
	return 1;
}

long mmu_update(u64 requests, u64 n, u64 done)
{
	u64 pair[2];
	u32 i;
	long result = 0;

	n &= 0x7fffffff; /* MMU_UPDATE_PREEMPTED */
	if (n > BATCH_MAX)
		return -XEN_EINVAL;
	for (i = 0; i < n; i++) {
		if (copy_in(pair, requests + 16ul * i, 16)) {
			result = -XEN_EFAULT;
			break;
		}
		u64 at = pair[0] & ~7ul, command = pair[0] & 7, value = pair[1];
		if (command == MMU_MACHPHYS)
			continue; /* mfn == pfn: the table never changes */
		if (command > MMU_PRESERVE_AD) {
			result = -XEN_ENOSYS;
			break;
		}
		if (at >= area.ram_bytes || is_own_slot(at) || !entry_ok(value)) {
			result = -XEN_EINVAL;
			break;
		}
		if (command == MMU_PRESERVE_AD && area.vcpus > 1)
			store_preserving(at, value);
		else
			store(at, command == MMU_PRESERVE_AD ? value | (*phys(at) & PTE_TOUCHED) : value);
	}
	if (done)
		copy_out(done, &i, 4);
	return result;
}

/* When it returns, none of these vcpus uses a translation from before: one that is not in the guest looks before it goes on, one that is
 * there is taken out by the VMM, which waits for it. We look ourselves on our way out, so two that flush each other do not wait for ever. */
void flush_vcpus(u64 mask)
{
	u64 in_guest = 0;

	if (mask & 1ul << area.me)
		area.need_flush = 1;
	for (u64 vcpu = 0; vcpu < area.vcpus && vcpu < VCPUS_MAX; vcpu++) {
		if (vcpu == area.me || !(mask & 1ul << vcpu))
			continue;
		struct area *other = area_of(vcpu);
		__atomic_add_fetch(&other->flush_wanted, 1, __ATOMIC_SEQ_CST);
		if (other->in_guest)
			in_guest |= 1ul << vcpu;
	}
	if (in_guest)
		call_vmm(CALL_FLUSH, in_guest, 0);
}

/* By a bitmap of the guest's. */
static long flush_mask(u64 at)
{
	u64 mask;

	if (copy_in(&mask, at, sizeof mask))
		return -XEN_EFAULT;
	flush_vcpus(mask);
	return 0;
}

long update_va_mapping(u64 at, u64 value, u64 flags)
{
	u64 table = area.kernel_cr3;

	if (!guest_range_ok(at, 1) || !entry_ok(value))
		return -XEN_EINVAL;
	for (int level = 4; level > 1; level--) {
		table &= PTE_FRAME;
		if (table >= area.ram_bytes)
			return -XEN_EINVAL;
		u64 entry = phys(table)[at >> (12 + 9 * (level - 1)) & 511];
		if (!(entry & PTE_PRESENT))
			return -XEN_EINVAL;
		if (entry & PTE_HUGE && level <= 3)
			return -XEN_EINVAL;
		table = entry;
	}
	table &= PTE_FRAME;
	if (table >= area.ram_bytes)
		return -XEN_EINVAL;
	/* The guest kernel makes its page tables and GDT read-only, as Xen wants; we do not, so those writes need no trap. */
	if (value & PTE_PRESENT && !(value & PTE_WRITE) && (s64)at < 0)
		value |= PTE_WRITE;
	store(table + 8 * (at >> 12 & 511), value);
	if (!(flags & UVMF_KIND))
		return 0;
	if ((flags & ~UVMF_KIND) == 0)
		area.need_flush = 1;
	else if ((flags & ~UVMF_KIND) == UVMF_ALL)
		flush_vcpus(~0ul);
	else
		return flush_mask(flags & ~UVMF_KIND);
	return 0;
}

/* Xen's struct mmuext_op. */
struct mmuext {
	u32 command, pad;
	u64 arg1, arg2;
};

enum { PIN_L1, PIN_L2, PIN_L3, PIN_L4, UNPIN, NEW_BASEPTR, FLUSH_LOCAL, INVLPG_LOCAL, FLUSH_MULTI, INVLPG_MULTI, FLUSH_ALL, INVLPG_ALL,
       FLUSH_CACHE, SET_LDT, NEW_USER_BASEPTR = 15, CLEAR_PAGE, COPY_PAGE };

static long one_mmuext(const struct mmuext *op)
{
	/* A frame number so large that the shift would lose bits is outside RAM in any case. */
	u64 frame = op->arg1 < area.ram_bytes >> 12 ? op->arg1 << 12 : area.ram_bytes;

	switch (op->command) {
	case PIN_L1: case PIN_L2: case PIN_L3: case PIN_L4: case UNPIN:
		return frame < area.ram_bytes ? 0 : -XEN_EINVAL;
	case FLUSH_CACHE:
		return 0;
	case NEW_BASEPTR:
		if (frame >= area.ram_bytes || frame == area.user_cr3)
			return -XEN_EINVAL;
		area.kernel_cr3 = gate.kernel_cr3 = frame;
		install_slots(frame, 0);
		return 0;
	case NEW_USER_BASEPTR:
		if (frame >= area.ram_bytes || (frame && frame == area.kernel_cr3))
			return -XEN_EINVAL;
		area.user_cr3 = frame;
		if (frame)
			install_slots(frame, 1);
		return 0;
	case FLUSH_LOCAL: case INVLPG_LOCAL:
		area.need_flush = 1;
		return 0;
	case FLUSH_MULTI: case INVLPG_MULTI:
		return flush_mask(op->arg2);
	case FLUSH_ALL: case INVLPG_ALL:
		flush_vcpus(~0ul);
		return 0;
	case SET_LDT:
		return op->arg2 ? -XEN_ENOSYS : 0;
	case CLEAR_PAGE:
		if (frame >= area.ram_bytes)
			return -XEN_EINVAL;
		for (int i = 0; i < 512; i++)
			phys(frame)[i] = 0;
		return 0;
	case COPY_PAGE:
		if (frame >= area.ram_bytes || op->arg2 >= area.ram_bytes >> 12)
			return -XEN_EINVAL;
		for (int i = 0; i < 512; i++)
			phys(frame)[i] = phys(op->arg2 << 12)[i];
		return 0;
	default: /* MARK_SUPER and what later Xens added */
		return -XEN_ENOSYS;
	}
}

long mmuext_op(u64 ops, u64 n, u64 done, u64 domid)
{
	struct mmuext op;
	u32 i;
	long result = 0;

	(void)domid; /* DOMID_SELF is all that an unprivileged domain may name; whatever it says, it means itself. */
	n &= 0x7fffffff;
	if (n > BATCH_MAX)
		return -XEN_EINVAL;
	for (i = 0; i < n && !result; i++)
		result = copy_in(&op, ops + sizeof op * i, sizeof op) ? -XEN_EFAULT : one_mmuext(&op);
	if (result)
		i--;
	if (done)
		copy_out(done, &i, 4);
	return result;
}
