/* Hostile kernels with two vcpus: numbers that are none, contexts that cannot be, vcpus that fight. */
#include "kernel.h"

#define NOT_CANONICAL 0x8000000000000000ul
#define FLUSHES 3000

enum { INITIALISE, UP, DOWN, IS_UP, RUNSTATE = 5, SET_TIMER_OF = 8, STOP_TIMER_OF = 9, REGISTER_INFO = 10 };
enum { FLUSH_MULTI = 8, INVLPG_MULTI, FLUSH_ALL, INVLPG_ALL };
#define IN_KERNEL 4

struct context { /* xen.h: vcpu_guest_context */
	char fpu[512];
	u64 flags;
	u64 before_rip[16], rip, cs, rflags, rsp, ss, data_segments[4];
	struct { u64 head, address; } traps[256];
	u64 ldt_base, ldt_entries, gdt_frames[16], gdt_entries, kernel_ss, kernel_sp, cr[8], debug[8];
	u64 event_callback, failsafe_callback, syscall_callback, vm_assist, fs_base, gs_base_kernel, gs_base_user;
};
_Static_assert(sizeof(struct context) == 5168, "vcpu_guest_context");

static struct context context;
static char stack[4 * PAGE] __attribute__((aligned(4096)));
static char garbage[PAGE] __attribute__((aligned(4096)));
static volatile u64 second, first;

static long vcpu_op(u64 command, u64 vcpu, void *arg) { return call(VCPU_OP, command, vcpu, (u64)arg, 0); }

static void power_off(void)
{
	u32 reason = 0;
	call(SCHED, 2, (u64)&reason, 0, 0);
}

static u64 here(void)
{
	return info->pt_base - VIRT_BASE;
}

/* As Linux makes it. */
static struct context *sound(void (*entry)(void))
{
	for (u64 i = 0; i < sizeof context; i++)
		((volatile char *)&context)[i] = 0;
	context.flags = IN_KERNEL;
	context.rip = (u64)entry;
	context.rsp = (u64)stack + sizeof stack - 8;
	context.rflags = 0x1000;
	context.cr[3] = here();
	return &context;
}

static void start_second(void (*entry)(void))
{
	report("initialise", vcpu_op(INITIALISE, 1, sound(entry)));
	report("up", vcpu_op(UP, 1, 0));
}

static void second_counts(void)
{
	for (;;)
		second++;
}

#define FORGED(name, field, value) (sound(second_counts)->field = (value), report(name, vcpu_op(INITIALISE, 1, &context)))

/* What is refused, and that a refused call has changed nothing. */
void vcpu_calls(void)
{
	static const u64 none[] = { 2, 7, 31, 32, 4096, 1ul << 32, 1ul << 63, ~0ul };
	static u64 place[2] = { 0x200, 0 }, timer[2] = { 1, 0 };
	long wrong = 0;
	for (u64 i = 0; i < sizeof none / sizeof *none; i++)
		for (u64 command = 0; command < 14; command++)
			wrong += vcpu_op(command, none[i], sound(second_counts)) != -2;
	report("vcpus that are none", wrong);
	report("up before initialise", vcpu_op(UP, 1, 0));
	report("context nowhere", vcpu_op(INITIALISE, 1, 0));
	report("context in the shim", vcpu_op(INITIALISE, 1, (void *)0xffff808000030000ul));
	report("first again", vcpu_op(INITIALISE, 0, sound(second_counts)));
	FORGED("user mode", flags, 0);
	FORGED("rip", rip, NOT_CANONICAL);
	FORGED("trap", traps[255].address, NOT_CANONICAL);
	FORGED("ldt", ldt_entries, 1);
	FORGED("gdt entries", gdt_entries, 8192);
	FORGED("gdt entries max", gdt_entries, ~0ul);
	context.gdt_frames[0] = ~0ul;
	FORGED("cr3 outside", cr[3], info->pages * PAGE);
	FORGED("cr3 odd", cr[3], here() + 8);
	FORGED("cr3 max", cr[3], ~0ul);
	FORGED("cr3 of the shim", cr[3], SHIM_GPA);
	FORGED("user cr3", cr[1], ~0ul);
	FORGED("user cr3 is the kernel's", cr[1], here());
	FORGED("event callback", event_callback, NOT_CANONICAL);
	FORGED("failsafe callback", failsafe_callback, NOT_CANONICAL);
	FORGED("syscall callback", syscall_callback, NOT_CANONICAL);
	FORGED("fs base", fs_base, NOT_CANONICAL);
	FORGED("gs base", gs_base_kernel, NOT_CANONICAL);
	FORGED("user gs base", gs_base_user, NOT_CANONICAL);
	sound(second_counts)->gdt_entries = 16;
	context.gdt_frames[0] = ~0ul;
	report("gdt frame", vcpu_op(INITIALISE, 1, &context));
	report("up after all that", vcpu_op(UP, 1, 0));
	report("is up", vcpu_op(IS_UP, 1, 0));
	start_second(second_counts);
	report("initialise twice", vcpu_op(INITIALISE, 1, sound(second_counts)));
	report("is up now", vcpu_op(IS_UP, 1, 0));
	report("vcpu_info of one that is up", vcpu_op(REGISTER_INFO, 1, place));
	report("timer of another", vcpu_op(SET_TIMER_OF, 1, timer));
	report("stop timer of another", vcpu_op(STOP_TIMER_OF, 1, 0));
	while (!second)
		;
	report("down", vcpu_op(DOWN, 1, 0));
	report("is down", vcpu_op(IS_UP, 1, 0));
	report("down twice", vcpu_op(DOWN, 1, 0));
	report("up again", vcpu_op(UP, 1, 0));
	for (u64 before = second; second == before;)
		;
	say("counts on\n");
	u32 many[2] = { 0, 0 };
	struct { u32 *ports; u32 count, pad; u64 timeout; } poll = { many, 129, 0, 0 };
	report("poll of 129", call(SCHED, 3, (u64)&poll, 0, 0));
	poll.count = 1, many[0] = ~0u;
	report("poll of port max", call(SCHED, 3, (u64)&poll, 0, 0));
	poll.ports = 0;
	report("poll of nowhere", call(SCHED, 3, (u64)&poll, 0, 0));
	poll.count = 0, poll.timeout = 1;
	report("poll of nothing", call(SCHED, 3, (u64)&poll, 0, 0));
	struct { u32 command, pad; u64 a; void *mask; } flush = { FLUSH_MULTI, 0, 0, 0 };
	report("mask nowhere", call(MMUEXT, (u64)&flush, 1, 0, 0x7ff0));
	u64 mask = ~0ul;
	flush.mask = &mask;
	report("mask of all", call(MMUEXT, (u64)&flush, 1, 0, 0x7ff0));
}

static void flush_without_end(volatile u64 *count)
{
	u64 mask = 3;
	struct { u32 command, pad; u64 a; u64 *mask; } flush = { 0, 0, (u64)stack, &mask };
	for (; *count < FLUSHES; ++*count) {
		flush.command = FLUSH_MULTI + *count % 4;
		call(MMUEXT, (u64)&flush, 1, 0, 0x7ff0);
	}
}

static void second_flushes(void)
{
	flush_without_end(&second);
	vcpu_op(DOWN, 1, 0);
	say("not reached\n");
}

/* Each waits for the other all the time. */
void vcpus_flush(void)
{
	start_second(second_flushes);
	flush_without_end(&first);
	while (vcpu_op(IS_UP, 1, 0))
		call(SCHED, 0, 0, 0, 0);
	report("flushes", first + second);
}

/* The other one goes down: nobody is left to wait for, and the last one that goes ends the domain. */
static void second_is_last(void)
{
	vcpu_op(DOWN, 0, 0);
	while (vcpu_op(IS_UP, 0, 0))
		;
	say("the first is down\n");
	vcpu_op(DOWN, 1, 0);
	say("not reached\n");
}

void vcpus_down(void)
{
	start_second(second_is_last);
	for (;;)
		;
}

static void second_spins(void)
{
	say("looping\n");
	for (;;)
		;
}

void vcpus_spin(void)
{
	start_second(second_spins);
	for (;;)
		;
}

void vcpus_up_and_down(void)
{
	start_second(second_counts);
	say("looping\n");
	for (;;) {
		vcpu_op(DOWN, 1, 0);
		vcpu_op(UP, 1, 0);
	}
}

/* vcpu 0 waits without an event to come, vcpu 1 ends the domain. */
void vcpus_shutdown(void)
{
	start_second(power_off);
	for (;;)
		call(SCHED, 1, 0, 0, 0);
}

static void start_at(void *entry, u64 cr3)
{
	sound(entry)->cr[3] = cr3;
	vcpu_op(INITIALISE, 1, &context);
	vcpu_op(UP, 1, 0);
	for (;;)
		call(SCHED, 0, 0, 0, 0);
}

void vcpu_nowhere(void) { start_at((void *)0x123456789000ul, here()); }
void vcpu_tables_of_nothing(void) { start_at((void *)second_counts, (u64)garbage - VIRT_BASE); }
void vcpu_tables_of_garbage(void)
{
	for (u64 i = 0; i < PAGE / 8; i++)
		((u64 *)garbage)[i] = i * 0x9e3779b97f4a7c15ul | 7;
	start_at((void *)second_counts, (u64)garbage - VIRT_BASE);
}

/* The words by which vcpus tell each other to flush, in the other's area: what is lied there hurts nobody but the liar. */
void vcpus_forge_flushes(void)
{
	static char view[PAGE] __attribute__((aligned(4096)));
	volatile u64 *words = (volatile u64 *)view;
	start_second(second_counts);
	while (!second)
		;
	map_at(view, SHIM_GPA + 0x200000 + 0x32000);
	say("looping\n");
	for (u64 i = 0;; i++) {
		u64 mask = 3;
		struct { u32 command, pad; u64 a; u64 *mask; } flush = { FLUSH_MULTI, 0, 0, &mask };
		words[0] = i * 0x9e3779b97f4a7c15ul, words[1] = ~i, words[2] = i;
		call(MMUEXT, (u64)&flush, 1, 0, 0x7ff0);
	}
}
