/* Into the guest kernel and out again: system calls, exceptions, upcalls, iret. The way is Xen's (arch/x86/pv/traps.c, x86_64/entry.S):
 * a frame on the guest kernel's stack, rcx and r11 on top of it, and its registered handler as the next instruction. */
#include "shim.h"
#include "trace.h"

struct trap {
	u64 vector, error;
	struct frame frame;
};

#define FLAGS_ALWAYS 0x202ul    /* IF and the bit that is always one */
#define FLAGS_GUEST  0x250fd5ul /* what the guest may set: arithmetic, TF, DF, AC, ID, IF */

#ifdef WITHOUT_TRACE
static void trace_call(int compat) { (void)compat; }
static void trace_return(u64 rax, u64 rip, u64 rsp) { (void)rax, (void)rip, (void)rsp; }
#else
static inline void trace_call(int compat)
{
	if (__builtin_expect(trace.armed, 0))
		trace_enter(compat);
}
static inline void trace_return(u64 rax, u64 rip, u64 rsp)
{
	if (__builtin_expect(trace.armed, 0))
		trace_leave(rax, rip, rsp);
}
#endif

u64 system_time(void)
{
	u32 low, high;
	__asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
	u64 ticks = (low | (u64)high << 32) - area.tsc_base;
	ticks = area.tsc_shift >= 0 ? ticks << area.tsc_shift : ticks >> -area.tsc_shift;
	return (u64)(((unsigned __int128)ticks * area.tsc_mul) >> 32);
}

#ifdef BACKEND_HARDWARE
static void load_cr3(u64 cr3)
{
	area.current_cr3 = cr3;
	__asm__ volatile("mov %0, %%cr3" :: "r"(cr3) : "memory");
}
#endif

long call_vmm(u64 op, u64 nr, const u64 *args)
{
	count(COUNT_CALLS);
	area.call[0] = op;
	area.call[1] = nr;
	for (int i = 0; args && i < 6; i++)
		area.call[2 + i] = args[i];
	vmm_call();
	return area.call[8];
}

/* First thing on every entry: the last exit has happened, so what it was to load is loaded. */
static void entered(void)
{
	area.in_guest = 0;
	area.need_flush = 0;
#ifdef BACKEND_HARDWARE
	/* The user's address space has no physmap, and nearly every entry goes on to the guest kernel. */
	if (area.current_cr3 != area.kernel_cr3)
		load_cr3(area.kernel_cr3);
#else
	if (area.exit_cr3)
		area.current_cr3 = area.exit_cr3;
	area.exit_cr3 = 0;
#endif
}

static void enter_kernel(void)
{
	if (area.kernel_mode)
		return;
	area.gs_user = read_gs();
	area.kernel_mode = 1;
	write_gs(area.gs_kernel);
}

static void enter_user(void)
{
	if (!area.kernel_mode)
		return;
	area.gs_kernel = read_gs();
	area.kernel_mode = 0;
	write_gs(area.gs_user);
}

/* Makes the guest kernel continue at `address` with a frame of what was interrupted. A kernel stack that faults ends the domain: Xen does so too. */
void bounce(u64 address, int mask_events, int has_error, u64 error)
{
	u64 words[8], n = 0, sp, cs, ss;

	if (area.kernel_mode) {
		sp = area.regs.rsp;
		cs = SEL_KERNEL_CS & ~3ul; /* RPL 0 tells the guest kernel that it interrupted itself. */
		ss = SEL_KERNEL_SS;
	} else {
		sp = area.kernel_sp;
		cs = area.user_cs;
		ss = SEL_USER_SS;
		enter_kernel();
	}
	words[n++] = area.regs.rcx;
	words[n++] = area.regs.r11;
	if (has_error)
		words[n++] = error;
	words[n++] = area.regs.rip;
	words[n++] = cs;
	words[n++] = (area.regs.rflags & ~0x3200ul) | (vcpu_info()->upcall_mask ? 0 : 0x200);
	words[n++] = area.regs.rsp;
	words[n++] = ss;
	sp = (sp & ~15ul) - 8 * n;
	if (!address || copy_out(sp, words, 8 * n)) {
		u64 args[6] = { sp, address, area.regs.rip };
		call_vmm(CALL_BROKEN, 0, args);
		return;
	}
	if (mask_events)
		vcpu_info()->upcall_mask = 1;
	area.regs.rsp = sp;
	area.regs.rip = address;
	area.regs.rflags = FLAGS_ALWAYS;
#ifdef BACKEND_HARDWARE
	/* Both are on the stack now; like this SYSRET will do. */
	area.regs.rcx = area.regs.rip;
	area.regs.r11 = area.regs.rflags;
#endif
}

static void deliver_trap(u64 vector, int has_error, u64 error)
{
	bounce(area.traps[vector].address, area.traps[vector].flags & 4, has_error, error);
}

/* int $0x80. Where the guest kernel has no gate for it, the exception is #GP at the instruction. */
static void int80(void)
{
	const struct trap_info *gate80 = &area.traps[0x80];

	if (gate80->address && ((gate80->flags & 3) == 3 || area.kernel_mode)) {
		if (!area.kernel_mode)
			trace_call(1);
		deliver_trap(0x80, 0, 0);
		return;
	}
	area.regs.rip -= 2;
	deliver_trap(13, 1, 0x80 << 3 | 2);
}

static void iret(void)
{
	struct { u64 rax, r11, rcx, flags, rip, cs, rflags, rsp, ss; } f;

	if (copy_in(&f, area.regs.rsp, sizeof f)) {
		u64 args[6] = { area.regs.rsp, 0, area.regs.rip };
		call_vmm(CALL_BROKEN, 1, args);
		return;
	}
	area.regs.rax = f.rax;
	area.regs.r11 = f.r11;
	area.regs.rcx = f.rcx;
	area.regs.rip = f.rip;
	area.regs.rsp = f.rsp;
	area.regs.rflags = (f.rflags & FLAGS_GUEST) | FLAGS_ALWAYS;
	vcpu_info()->upcall_mask = !(f.rflags & 0x200);
	if ((f.cs & 3) == 3) {
		trace_return(f.rax, f.rip, f.rsp);
		area.user_cs = (u16)f.cs == SEL_USER_CS32 ? SEL_USER_CS32 : SEL_USER_CS;
		enter_user();
	}
	/* IRET to such an address faults in the shim; the guest would see #GP. */
	if (!canonical(f.rip))
		deliver_trap(13, 1, 0);
}

/* SYSCALL from user mode. rcx and r11 hold rip and rflags, as the instruction left them. */
__attribute__((visibility("hidden"))) void c_syscall_user(u64 compat)
{
	count(COUNT_SYSCALLS);
#ifdef BACKEND_HARDWARE
	entered();
#endif
	area.regs.rip = area.regs.rcx;
	area.regs.rflags = area.regs.r11;
	area.user_cs = compat ? SEL_USER_CS32 : SEL_USER_CS;
	trace_call(compat);
	if (compat && area.callback_syscall32) {
		bounce(area.callback_syscall32, area.callback_flags >> 7 & 1, 0, 0);
	} else if (compat) {
		/* Nobody wants it: the instruction does not exist. */
		area.regs.rip -= 2;
		deliver_trap(6, 0, 0);
	} else
		bounce(area.callback_syscall, area.callback_flags >> 2 & 1, 0, 0);
}

/* SYSCALL from the guest kernel. */
__attribute__((visibility("hidden"))) void c_hypercall(void)
{
	count(COUNT_HYPERCALLS);
	entered();
	area.regs.rip = area.regs.rcx;
	area.regs.rflags = area.regs.r11;
	if (area.regs.rax == 23) {
		iret();
		return;
	}
	u64 nr = area.regs.rax;
	u64 args[6] = { area.regs.rdi, area.regs.rsi, area.regs.rdx, area.regs.r10, area.regs.r8, area.regs.r9 };
	area.regs.rax = hypercall(nr, args);
}

/* What the VMM emulated may have been a write of FS or GS base. */
static void load_bases(void)
{
	if (!area.set_bases)
		return;
	if (area.set_bases & 1)
		write_fs(area.fs_base);
	if (area.set_bases & 2)
		write_gs(area.gs_base);
	area.set_bases = 0;
}

static void page_fault(u64 at, u64 error)
{
	count(COUNT_PAGE_FAULTS);
	if (area.kernel_mode && add_user_bits(at, error))
		return;
	vcpu_info()->cr2 = at;
	/* Both kernel and user run in ring 3 (PVM loses the bit besides), so the hardware's U bit says nothing. */
	deliver_trap(14, 1, area.kernel_mode ? error & ~4ul : error | 4);
}

/* Any exception of the guest's. The registers but for the frame are in area.regs. */
__attribute__((visibility("hidden"))) void c_trap(const struct trap *trap)
{
	count(COUNT_ENTRIES);
	entered();
	area.regs.rip = trap->frame.rip;
	area.regs.rflags = trap->frame.rflags;
	area.regs.rsp = trap->frame.rsp;
#ifdef BACKEND_PVM
	if (!area.kernel_mode) {
		area.current_cr3 = area.kernel_cr3; /* The gate has loaded it. */
		u64 offset = trap->frame.rip - area.window - 1;
		if (trap->vector == 3 && (offset == TRAMPOLINE_LSTAR || offset == TRAMPOLINE_CSTAR)) {
			c_syscall_user(offset == TRAMPOLINE_CSTAR);
			return;
		}
	}
#endif
	if (!area.kernel_mode)
		area.user_cs = (u16)trap->frame.cs == SEL_USER_CS32 ? SEL_USER_CS32 : SEL_USER_CS;
	if (trap->vector == 14) {
		page_fault(gate.cr2, trap->error);
		return;
	}
	count(COUNT_EXCEPTIONS);
	if (trap->vector == 0x80) {
		int80();
		return;
	}
	if (trap->vector == 13 && !(trap->error & 2) && emulate_privileged())
		return;
	struct cpuid_answer *cpuid = trap->vector == 6 ? cpuid_slot() : 0;
	if (cpuid && cpuid_known(cpuid))
		return;
	u64 args[6] = { trap->error };
	if (call_vmm(CALL_EXCEPTION, trap->vector, args) == 1)
		deliver_trap(trap->vector, area.resume_error != ~0ul, area.resume_error);
	else if (cpuid)
		cpuid_keep(cpuid);
	load_bases();
}

/* The VMM starts the guest anew from area.regs, perhaps with a trap. */
__attribute__((visibility("hidden"))) void c_resume(void)
{
	entered();
	load_bases();
	if (area.resume_trap) {
		u64 vector = (area.resume_trap - 1) & 255;
		area.resume_trap = 0;
		deliver_trap(vector, area.resume_error != ~0ul, area.resume_error);
	}
}

/* A fault of the shim itself. Only its copies to and from the guest may fault. */
__attribute__((visibility("hidden"))) void c_trap_nested(struct trap *trap)
{
	count(COUNT_NESTED);
#ifdef BACKEND_HARDWARE
	/* A step that was due after SYSCALL. */
	if (trap->vector == 1) {
		trap->frame.rflags &= ~0x100ul;
		return;
	}
#endif
	if (trap->vector == 14) {
		if (add_user_bits(gate.cr2, trap->error))
			return;
	}
	if (trap->frame.rip == (u64)guest_copy_insn) {
		trap->frame.rip = (u64)guest_copy_fault;
		return;
	}
	u64 args[6] = { trap->frame.rip, gate.cr2, trap->error, trap->vector };
	call_vmm(CALL_BROKEN, 2, args);
}

/* SYSRET gives rcx to rip and r11 to rflags; with TF or RF, or an address that is not canonical, it misbehaves. PVM's fast stub is alike. */
static int like_sysret(void)
{
	const struct regs *r = &area.regs;

	return r->rcx == r->rip && r->r11 == r->rflags && !(r->rflags & 0x10100) && area.exit_cs == SEL_USER_CS;
}

/* Another vcpu that asks for a flush from here on finds us in the guest and has us taken out; what was asked before, we see. */
static void leave_for_guest(void)
{
	u64 wanted;

	if (area.vcpus == 1)
		return;
	__atomic_exchange_n(&area.in_guest, 1, __ATOMIC_SEQ_CST);
	wanted = area.flush_wanted;
	if (wanted != area.flush_done) {
		area.need_flush = 1;
		area.flush_done = wanted;
	}
}

/* Last in C before the guest goes on: deliver what is pending, then choose the way out. */
__attribute__((visibility("hidden"))) void c_out(void)
{
	volatile struct vcpu_info *info = vcpu_info();

	/* Without a callback this is the domain's end, as in Xen: it would be looked for without end. */
	if (info->upcall_pending && !info->upcall_mask) {
		count(COUNT_UPCALLS);
		bounce(area.callback_event, 1, 0, 0);
	}
	leave_for_guest();
	area.exit_cs = !area.kernel_mode ? area.user_cs : SEL_USER_CS;
	u64 cr3 = area.kernel_mode ? area.kernel_cr3 : area.user_cr3;
#ifdef BACKEND_HARDWARE
	const struct regs *r = &area.regs;
	if (area.need_flush || area.current_cr3 != cr3) {
		count(COUNT_FLUSHES);
		load_cr3(cr3);
	}
	area.exit_fast = like_sysret() && canonical(r->rip) && canonical(r->rip + 64);
#else
	area.exit_cr3 = 0;
	if (area.need_flush || area.current_cr3 != cr3) {
		count(COUNT_FLUSHES);
		area.exit_cr3 = cr3;
		area.exit_fast = !area.kernel_mode && like_sysret();
		/* Both stubs lie in one page: only the low 16 bits of the gate's offset differ. */
		idt[0] = (u16)(u64)(area.exit_fast ? gate_exit_fast : gate_exit);
		if (area.exit_fast)
			return;
		gate.exit_rax = area.regs.rax;
		gate.exit = (struct frame){ area.regs.rip, area.exit_cs, area.regs.rflags, area.regs.rsp, SEL_USER_SS };
	}
#endif
}

#ifdef BACKEND_HARDWARE
/* SYSCALL arrives at the same place from both modes. */
__attribute__((visibility("hidden"))) void c_syscall(void)
{
	if (area.kernel_mode)
		c_hypercall();
	else
		c_syscall_user(0);
}

/* The VMM's own vector: an event is pending. Nothing to do but to leave by c_out. */
__attribute__((visibility("hidden"))) void c_interrupt(const struct trap *trap)
{
	entered();
	area.regs.rip = trap->frame.rip;
	area.regs.rflags = trap->frame.rflags;
	area.regs.rsp = trap->frame.rsp;
	if (!area.kernel_mode)
		area.user_cs = (u16)trap->frame.cs == SEL_USER_CS32 ? SEL_USER_CS32 : SEL_USER_CS;
}
#endif
