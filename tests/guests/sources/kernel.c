/* A hostile kernel: a Xen PV guest that lies. The command line names the case. A refused call is reported on the early console as
 * `NAME = RESULT`; a case that comes to its end powers off. Built freestanding; tests/guests/hostile.rs says what must come of each. */
#include "kernel.h"

#define SHIM_VA 0xffff808000000000ul
#define SHIM_BYTES 0x90000ul
#define NOT_CANONICAL 0x8000000000000000ul
#define UNMAPPED 0x1000ul

extern char skip_two[], skip_two_with_error[], loop_for_ever[];
extern u64 trap_count, trap_stack;

struct start_info *info;

long call(u64 nr, u64 a, u64 b, u64 c, u64 d)
{
	register u64 r10 __asm__("r10") = d;
	register u64 r8 __asm__("r8") = 0;
	long result;
	__asm__ volatile("syscall" : "=a"(result), "+D"(a), "+S"(b), "+d"(c), "+r"(r10), "+r"(r8) : "0"(nr) : "rcx", "r11", "r9", "memory");
	return result;
}

u64 length(const char *text)
{
	u64 n = 0;
	while (text[n])
		n++;
	return n;
}

void say(const char *text)
{
	call(CONSOLE_IO, 0, length(text), (u64)text, 0);
}

/* One write, so that nothing of another thread's comes between. */
void report(const char *name, long value)
{
	char line[128], digits[24];
	u64 at = 0, n = 0, rest = value < 0 ? -(u64)value : (u64)value;
	for (; *name && at < 90; name++)
		line[at++] = *name;
	line[at++] = ' ', line[at++] = '=', line[at++] = ' ';
	if (value < 0)
		line[at++] = '-';
	do
		digits[n++] = '0' + rest % 10;
	while (rest /= 10);
	while (n)
		line[at++] = digits[--n];
	line[at++] = '\n';
	line[at] = 0;
	say(line);
}

static void shut_down(u32 reason)
{
	call(SCHED, 2, (u64)&reason, 0, 0);
	for (;;)
		;
}

struct trap { unsigned char vector, flags; unsigned short cs; u32 pad; u64 address; };

static void handle(int vector, const char *handler)
{
	static struct trap list[2];
	list[0] = (struct trap){ .vector = vector, .flags = 4, .cs = 0xe033, .address = (u64)handler };
	call(SET_TRAP_TABLE, (u64)list, 0, 0, 0);
}

static u64 mmu(u64 at, u64 value)
{
	u64 pair[2] = { at, value };
	return call(MMU_UPDATE, (u64)pair, 1, 0, 0x7ff0);
}

struct mmuext { u32 command, pad; u64 a, b; };

static long mmuext(u32 command, u64 a, u64 b)
{
	struct mmuext op = { command, 0, a, b };
	return call(MMUEXT, (u64)&op, 1, 0, 0x7ff0);
}

/* The page-table entry of one of our own addresses, which we may write as we like: it is RAM. */
static volatile u64 *entry_of(u64 at)
{
	u64 table = info->pt_base;
	for (int level = 4; level > 1; level--)
		table = VIRT_BASE + (((u64 *)table)[at >> (12 + 9 * (level - 1)) & 511] & 0xffffffffff000ul);
	return (volatile u64 *)table + (at >> 12 & 511);
}

static char window[2 * PAGE] __attribute__((aligned(4096)));

void map_at(void *at, u64 gpa)
{
	*entry_of((u64)at) = gpa | 7;
	mmuext(7, (u64)at, 0);
}

/* Maps a frame that Xen would never let us map. */
static volatile unsigned char *map(u64 gpa)
{
	map_at(window, gpa);
	return (volatile unsigned char *)window;
}

static void unknown(void)
{
	report("hypercall 6", call(6, 0, 0, 0, 0));
	report("hypercall 63", call(63, 0, 0, 0, 0));
	report("hypercall 64", call(64, 0, 0, 0, 0));
	report("hypercall max", call(~0ul, ~0ul, ~0ul, ~0ul, ~0ul));
	report("platform", call(PLATFORM, 0, 0, 0, 0));
	report("grant map", call(GRANT_TABLE, 0, (u64)window, 1, 0));
	report("sched 99", call(SCHED, 99, 0, 0, 0));
	report("vcpu 7", call(VCPU_OP, 3, 7, 0, 0));
	report("vcpu max", call(VCPU_OP, 10, ~0ul, (u64)window, 0));
	u32 reason = 99;
	report("shutdown 99", call(SCHED, 2, (u64)&reason, 0, 0));
}

static void pointers(void)
{
	static const u64 bad[] = { 0, UNMAPPED, NOT_CANONICAL, 0x0000800000000000ul, 0xffff800000000000ul, SHIM_VA, SHIM_VA + 0x30000,
				   SHIM_VA + 0x2fff8, 0xffff810000000000ul, 0xffff818000000000ul, 0xffff87fffffffffful, ~0ul, ~7ul, 0xfffffffffffff000ul };
	long wrong = 0, tried = 0;
	for (u64 i = 0; i < sizeof bad / sizeof *bad; i++) {
		u64 p = bad[i];
		long results[] = {
			p ? call(SET_TRAP_TABLE, p, 0, 0, 0) : -14, call(MMU_UPDATE, p, 1, 0, 0x7ff0), call(SET_GDT, p, 16, 0, 0), call(MULTICALL, p, 1, 0, 0),
			call(XEN_VERSION, 6, p, 0, 0), call(XEN_VERSION, 1, p, 0, 0), call(CONSOLE_IO, 0, 16, p, 0), call(GRANT_TABLE, 2, p, 1, 0),
			call(VCPU_OP, 8, 0, p, 0), call(VCPU_OP, 10, 0, p, 0), call(VCPU_OP, 5, 0, p, 0), call(MMUEXT, p, 1, 0, 0x7ff0),
			call(SCHED, 2, p, 0, 0), call(CALLBACK, 0, p, 0, 0), call(EVENT_CHANNEL, 6, p, 0, 0), call(EVENT_CHANNEL, 9, p, 0, 0),
			call(MEMORY, 9, p, 0, 0), call(MEMORY, 12, p, 0, 0),
		};
		for (u64 k = 0; k < sizeof results / sizeof *results; k++) {
			tried++;
			if (results[k] != -14) {
				wrong++;
				report("pointer taken by call", k * 100 + i);
			}
		}
	}
	report("pointers tried", tried);
	report("pointers taken", wrong);
}

static void page_tables(void)
{
	u64 l4 = info->pt_base - VIRT_BASE, ram = info->pages * PAGE;
	report("entry outside", mmu(ram, 0));
	report("entry of the shim", mmu(SHIM_GPA, 7));
	report("entry at the end", mmu(~7ul, 7));
	report("shim frame", mmu(l4, SHIM_GPA | 7));
	report("area frame", mmu(l4, (SHIM_GPA + 0x30000) | 7));
	report("huge frame", mmu(l4, 0x000ffffffffff007ul));
	report("frame after ram", mmu(l4, ram | 7));
	report("shim slot", mmu(l4 + 257 * 8, 0));
	report("physmap slot", mmu(l4 + 259 * 8, 7));
	report("command 5", mmu(l4 | 5, 0));
	report("va of the shim", call(UPDATE_VA, SHIM_VA, 7, 0, 0));
	report("va not canonical", call(UPDATE_VA, 0x0000808000030000ul, 7, 0, 0));
	report("va of nothing", call(UPDATE_VA, UNMAPPED, 7, 0, 0));
	report("va to the shim", call(UPDATE_VA, (u64)window, (SHIM_GPA + 0x30000) | 7, 0, 0));
	report("base outside", mmuext(5, ram / PAGE, 0));
	report("base of the shim", mmuext(5, SHIM_GPA / PAGE, 0));
	report("base overflows", mmuext(5, 1ul << 52, 0));
	report("base max", mmuext(5, ~0ul, 0));
	report("user base max", mmuext(15, ~0ul, 0));
	report("user base is the kernel's", mmuext(15, l4 / PAGE, 0));
	report("pin max", mmuext(3, ~0ul, 0));
	report("clear overflows", mmuext(16, 1ul << 52, 0));
	report("copy overflows", mmuext(17, 1, 1ul << 52));
	report("ldt", mmuext(13, (u64)window, 8));
	report("command 99", mmuext(99, 0, 0));
	report("batch of 65537", call(MMU_UPDATE, (u64)window, 65537, 0, 0x7ff0));
	report("ops max", call(MMUEXT, (u64)window, 0x7fffffff, 0, 0x7ff0));
}

static void tables(void)
{
	static struct trap traps[300];
	u64 frame = ~0ul;
	for (int i = 0; i < 300; i++)
		traps[i] = (struct trap){ .vector = i, .address = (u64)skip_two };
	report("traps without end", call(SET_TRAP_TABLE, (u64)traps, 0, 0, 0));
	traps[0].address = NOT_CANONICAL;
	traps[1].address = 0;
	report("trap not canonical", call(SET_TRAP_TABLE, (u64)traps, 0, 0, 0));
	report("gdt frame", call(SET_GDT, (u64)&frame, 512, 0, 0));
	report("gdt entries", call(SET_GDT, (u64)&frame, ~0ul, 0, 0));
	report("descriptor odd", call(UPDATE_DESCRIPTOR, 4, 0, 0, 0));
	report("descriptor of the shim", call(UPDATE_DESCRIPTOR, SHIM_GPA + 0x10000, 0, 0, 0));
	report("descriptor max", call(UPDATE_DESCRIPTOR, ~7ul, 0, 0, 0));
	report("debug 4", call(SET_DEBUGREG, 4, 0, 0, 0));
	report("debug max", call(GET_DEBUGREG, ~0ul, 0, 0, 0));
	report("fs not canonical", call(SEGMENT_BASE, 0, NOT_CANONICAL, 0, 0));
	report("segment 9", call(SEGMENT_BASE, 9, 0, 0, 0));
	struct { unsigned short type, flags; u32 pad; u64 address; } callback = { 0, 0, 0, NOT_CANONICAL };
	report("callback not canonical", call(CALLBACK, 0, (u64)&callback, 0, 0));
	callback.type = 77;
	report("callback 77", call(CALLBACK, 0, (u64)&callback, 0, 0));
	u64 place[2] = { ~0ul, 8 };
	report("vcpu_info outside", call(VCPU_OP, 10, 0, (u64)place, 0));
	place[0] = SHIM_GPA / PAGE;
	report("vcpu_info in the shim", call(VCPU_OP, 10, 0, (u64)place, 0));
	place[0] = 1, place[1] = 0xfffffff8;
	report("vcpu_info past its page", call(VCPU_OP, 10, 0, (u64)place, 0));
}

static void events(void)
{
	static const u32 bad[] = { 0, 77, 4095, 4096, 0x80000000, ~0u };
	long wrong = 0, bound = 0;
	for (u64 i = 0; i < sizeof bad / sizeof *bad; i++) {
		u32 op[6] = { bad[i], 0 };
		wrong += call(EVENT_CHANNEL, 3, (u64)op, 0, 0) != -22;
		wrong += call(EVENT_CHANNEL, 4, (u64)op, 0, 0) != -22;
		wrong += call(EVENT_CHANNEL, 8, (u64)op, 0, 0) != -22;
		/* The shim unmasks within its page; a port that is none is no use, and no harm. */
		wrong += bad[i] >= 4096 && call(EVENT_CHANNEL, 9, (u64)op, 0, 0) != -22;
	}
	report("ports taken", wrong);
	u32 virq[3] = { 99, 0, 0 }, ipi[2] = { 7, 0 }, far[3] = { 5, 1, 0 };
	report("virq 99", call(EVENT_CHANNEL, 1, (u64)virq, 0, 0));
	report("ipi to vcpu 7", call(EVENT_CHANNEL, 7, (u64)ipi, 0, 0));
	report("domain 5", call(EVENT_CHANNEL, 0, (u64)far, 0, 0));
	for (long result = 0; !result; bound++) {
		unsigned short op[4] = { 0x7ff0, 0 };
		result = call(EVENT_CHANNEL, 6, (u64)op, 0, 0);
	}
	report("ports bound", bound);
	report("command 99", call(EVENT_CHANNEL, 99, 0, 0, 0));
}

static void grants(void)
{
	struct { unsigned short dom, pad; u32 frames; short status; u64 list; } op = { 0x7ff0, 0, 33, 0, (u64)window };
	call(GRANT_TABLE, 2, (u64)&op, 1, 0);
	report("33 frames", op.status);
	op.frames = ~0u;
	call(GRANT_TABLE, 2, (u64)&op, 1, 0);
	report("all frames", op.status);
	report("two ops", call(GRANT_TABLE, 2, (u64)&op, 2, 0));
	report("count max", call(GRANT_TABLE, 6, (u64)&op, ~0ul, 0));
}

static void multicalls(void)
{
	static u64 list[4096][8];
	for (int i = 0; i < 4096; i++)
		list[i][0] = XEN_VERSION;
	list[1][0] = MULTICALL, list[1][2] = (u64)list, list[1][3] = 4096;
	list[2][0] = ~0ul;
	report("4096 calls", call(MULTICALL, (u64)list, 4096, 0, 0));
	report("multicall in it", list[1][1]);
	report("unknown in it", list[2][1]);
	report("4097 calls", call(MULTICALL, (u64)list, 4097, 0, 0));
	report("max calls", call(MULTICALL, (u64)list, ~0ul, 0, 0));
}

void notify(u32 port)
{
	call(EVENT_CHANNEL, 4, (u64)&port, 0, 0);
}

static void rings(void)
{
	static const u32 lies[] = { ~0u, 0x80000000, 4096, 1025, 0 };
	u32 *store = (u32 *)(VIRT_BASE + info->store_mfn * PAGE), *console = (u32 *)(VIRT_BASE + info->console_mfn * PAGE);
	for (u64 i = 0; i < 3000; i++) {
		for (int k = 0; k < 4; k++) {
			store[512 + k] = lies[(i + k) % 5];
			console[768 + k] = lies[(i + 2 * k) % 5];
		}
		store[517] = i & 1; /* asks for a reconnection */
		for (int k = 0; k < 256; k++)
			store[k] = i * 2654435761u + k * 40503u;
		notify(info->store_port);
		notify(info->console_port);
	}
	say("rings: gone through\n");
}

static void instructions(void)
{
	handle(13, skip_two_with_error);
	handle(6, skip_two);
	__asm__ volatile("hlt; cli; sti; clts; wbinvd; xor %%ecx, %%ecx; rdmsr; wrmsr; mov $0x10, %%edx; in %%dx, %%al; out %%al, %%dx;"
			 "mov %%cr0, %%rax; mov %%cr4, %%rax; mov %%rax, %%cr3; mov %%rax, %%cr0; mov %%rax, %%dr7; xsetbv"
			 ::: "rax", "rbx", "rcx", "rdx", "memory");
	say("instructions: done\n");
	__asm__ volatile("int $0x99; ud2" ::: "memory");
	report("traps", trap_count);
}

static void reached(void)
{
	say("handler reached\n");
	shut_down(0);
}

static void iret_not_canonical(void)
{
	handle(13, (char *)reached);
	static u64 frame[16];
	u64 *sp = frame + 4;
	sp[4] = NOT_CANONICAL, sp[5] = 0xe030, sp[6] = 0x202, sp[7] = (u64)(frame + 14), sp[8] = 0xe02b;
	__asm__ volatile("mov %0, %%rsp; mov $23, %%eax; syscall" :: "r"(sp) : "memory");
}

static void iret_nowhere(void)
{
	__asm__ volatile("mov %0, %%rsp; mov $23, %%eax; syscall" :: "r"(UNMAPPED) : "memory");
}

static void no_handler(void)
{
	__asm__ volatile("ud2");
}

static void no_stack(void)
{
	handle(6, skip_two);
	__asm__ volatile("mov %0, %%rsp; ud2" :: "r"(NOT_CANONICAL));
}

static void stack_in_the_shim(void)
{
	handle(6, skip_two);
	__asm__ volatile("mov %0, %%rsp; ud2" :: "r"(SHIM_VA + 0x38000));
}

static void handler_nowhere(void)
{
	handle(6, (char *)0x123456789000);
	handle(14, (char *)0x123456789000);
	__asm__ volatile("ud2");
}

static void callback_nowhere(void)
{
	struct { unsigned short type, flags; u32 pad; u64 address; } callback = { 0, 1, 0, 0x2000 };
	call(CALLBACK, 0, (u64)&callback, 0, 0);
	volatile unsigned char *vcpu_info = map(info->shared_info);
	vcpu_info[1] = 0;
	vcpu_info[0] = 1;
	call(XEN_VERSION, 0, 0, 0, 0);
}

static void no_callback(void)
{
	volatile unsigned char *vcpu_info = map(info->shared_info);
	vcpu_info[1] = 0;
	vcpu_info[0] = 1;
	call(XEN_VERSION, 0, 0, 0, 0);
}

static void base_of_nothing(void)
{
	/* A page of zeros as the new L4 table. */
	for (u64 i = 0; i < PAGE; i++)
		window[i] = 0;
	mmuext(5, ((u64)window - VIRT_BASE) / PAGE, 0);
}

static void base_of_garbage(void)
{
	for (u64 i = 0; i < PAGE / 8; i++)
		((u64 *)window)[i] = i * 0x9e3779b97f4a7c15ul | 7;
	mmuext(5, ((u64)window - VIRT_BASE) / PAGE, 0);
}

static void exceptions_without_end(void)
{
	static u64 stack[64];
	trap_stack = (u64)(stack + 60);
	handle(6, loop_for_ever);
	say("looping\n");
	__asm__ volatile("ud2");
}

static void spin(void)
{
	say("looping\n");
	__asm__ volatile("cli; 1: jmp 1b");
}

static void sleep_for_ever(void)
{
	say("looping\n");
	for (;;)
		call(SCHED, 1, 0, 0, 0);
}

static void hypercalls_without_end(void)
{
	static u64 list[4096][8];
	for (int i = 0; i < 4096; i++)
		list[i][0] = EVENT_CHANNEL, list[i][2] = 5, list[i][3] = (u64)window;
	say("looping\n");
	for (;;)
		call(MULTICALL, (u64)list, 4096, 0, 0);
}

static void device_memory(void)
{
	volatile unsigned char *page = map(0xfee00000);
	report("device", page[0]);
	page[0] = 1;
}

/* Overwrites the shim through page-table entries of its own: all of its window, code and data, before it is called again. */
static void scribble(unsigned char value)
{
	static volatile unsigned char view[SHIM_BYTES] __attribute__((aligned(4096)));
	say("scribbling\n");
	for (u64 at = 0; at < SHIM_BYTES; at += PAGE)
		*entry_of((u64)view + at) = (SHIM_GPA + at) | 7;
	mmuext(6, 0, 0);
	for (u64 i = SHIM_BYTES; i-- > 0;)
		view[i] = value ? value : (unsigned char)(i * 167 + (i >> 8));
	for (u64 i = 0; i < 1000; i++)
		call(XEN_VERSION, 1, (u64)window, 0, 0);
}

/* Only the area: what the VMM reads of it is garbage, while the shim's code still works. */
static void scribble_area(unsigned char value)
{
	say("scribbling\n");
	volatile unsigned char *page = map(SHIM_GPA + 0x30000);
	for (u64 i = 320; i < PAGE; i++)
		page[i] = value ? value : (unsigned char)(i * 167);
	for (u64 i = 0; i < 1000; i++)
		call(XEN_VERSION, 1, (u64)window, 0, 0);
}

static void scribble_hlt(void) { scribble(0xf4); }
static void scribble_int3(void) { scribble(0xcc); }
static void scribble_ones(void) { scribble(0xff); }
static void scribble_garbage(void) { scribble(0); }
static void scribble_area_ones(void) { scribble_area(0xff); }
static void scribble_area_garbage(void) { scribble_area(0); }
static void panic(void) { shut_down(3); }

/* Not hostile: says that it lives, at every tick of its timer. */
static void witness(void)
{
	u32 virq[3] = { 0, 0, 0 };
	call(EVENT_CHANNEL, 1, (u64)virq, 0, 0);
	volatile u64 *shared = (volatile u64 *)map(info->shared_info);
	for (u64 tick = 0;; tick++) {
		u64 deadline[2] = { 1, 0 };
		report("tick", tick);
		shared[(2048 + 512) / 8] = 0; /* nothing is masked */
		call(VCPU_OP, 8, 0, (u64)deadline, 0);
		while (!((volatile unsigned char *)shared)[0])
			call(SCHED, 3, 0, 0, 0);
		shared[2048 / 8] = 0, shared[1] = 0;
		((volatile unsigned char *)shared)[0] = 0;
	}
}

static const struct { const char *name; void (*run)(void); } cases[] = {
#define CASE(name) { #name, name }
	CASE(unknown), CASE(pointers), CASE(page_tables), CASE(tables), CASE(events), CASE(grants), CASE(multicalls), CASE(rings), CASE(instructions),
	CASE(iret_not_canonical), CASE(iret_nowhere), CASE(no_handler), CASE(no_stack), CASE(stack_in_the_shim), CASE(handler_nowhere),
	CASE(callback_nowhere), CASE(no_callback), CASE(base_of_nothing), CASE(base_of_garbage), CASE(exceptions_without_end), CASE(spin),
	CASE(sleep_for_ever), CASE(hypercalls_without_end), CASE(device_memory), CASE(scribble_hlt), CASE(scribble_int3), CASE(scribble_ones),
	CASE(scribble_garbage), CASE(scribble_area_ones), CASE(scribble_area_garbage), CASE(panic), CASE(witness), CASE(disk),
	CASE(network), CASE(vcpu_calls), CASE(vcpus_flush), CASE(vcpus_down), CASE(vcpus_spin), CASE(vcpus_up_and_down), CASE(vcpus_shutdown),
	CASE(vcpu_nowhere), CASE(vcpu_tables_of_nothing), CASE(vcpu_tables_of_garbage), CASE(vcpus_forge_flushes),
};

static int same(const char *a, const char *b)
{
	while (*a && *a == *b)
		a++, b++;
	return *a == *b;
}

void kernel_main(struct start_info *start)
{
	info = start;
	for (u64 i = 0; i < sizeof cases / sizeof *cases; i++)
		if (same(start->cmdline, cases[i].name))
			cases[i].run();
	shut_down(0);
}
