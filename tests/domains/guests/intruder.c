/* A hostile program in a Linux guest: from ring 3 it reaches for the shim, the physmap and its own kernel. Each attempt must end in a
 * signal; what came through is counted and named. Prints one line a group, `GROUP attempts=N through=M`, then powers off. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/reboot.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

typedef unsigned long u64;

#define PAGE 4096ul
#define WINDOW 0xffff808000000000ul   /* the shim's slot */
#define WINDOW_PAGES 1024ul           /* two windows' distance */
#define MACHINE_TO_PHYS 0xffff810000000000ul
#define PHYSMAP 0xffff818000000000ul
#define NAMED_MAX 8

static sigjmp_buf back;
static volatile sig_atomic_t got;
static u64 attempts, through;
static const char *group;
static unsigned char *code; /* a page to run from */

static void on_signal(int number)
{
	got = number;
	siglongjmp(back, 1);
}

static void begin(const char *name)
{
	group = name;
	attempts = through = 0;
}

static void came_through(u64 what)
{
	if (through++ < NAMED_MAX)
		printf("THROUGH %s %#lx\n", group, what);
}

/* The kernel is to go on after each group. */
static void end(void)
{
	pid_t child = fork();
	int status = -1;
	if (!child)
		_exit(3);
	waitpid(child, &status, 0);
	printf("%s attempts=%lu through=%lu kernel=%s\n", group, attempts, through, WIFEXITED(status) && WEXITSTATUS(status) == 3 ? "alive" : "BROKEN");
}

#define ATTEMPT(what, ...) do { \
	attempts++; \
	got = 0; \
	if (!sigsetjmp(back, 1)) { __VA_ARGS__; } \
	if (!got) came_through(what); \
} while (0)

static void read_at(u64 at)
{
	ATTEMPT(at, (void)*(volatile char *)at);
}

static void write_at(u64 at)
{
	ATTEMPT(at, *(volatile char *)at = 0x5a);
}

/* The only page of the shim that user space may see is full of int3. */
static int only_breakpoints(u64 page)
{
	const unsigned char *bytes = (const unsigned char *)page;
	for (u64 i = 0; i < PAGE; i++)
		if (bytes[i] != 0xcc)
			return 0;
	return 1;
}

static void reads(void)
{
	begin("read");
	/* The first page alone may be readable (PVM lands SYSCALL there), and says nothing. */
	got = 0;
	int readable = 0;
	if (!sigsetjmp(back, 1)) {
		(void)*(volatile char *)WINDOW;
		readable = 1;
	}
	attempts++;
	if (readable && !only_breakpoints(WINDOW))
		came_through(WINDOW);
	for (u64 page = 1; page < WINDOW_PAGES; page++)
		read_at(WINDOW + page * PAGE);
	for (u64 page = 0; page < 512; page++) {
		read_at(MACHINE_TO_PHYS + page * PAGE);
		read_at(PHYSMAP + page * 64 * PAGE);
		read_at(0xffffffff81000000ul + page * PAGE);
		read_at(0xffff888000000000ul + page * 64 * PAGE);
	}
	for (u64 slot = 258; slot < 512; slot++)
		read_at(0xffff000000000000ul | slot << 39);
	end();
}

static void writes(void)
{
	begin("write");
	for (u64 page = 0; page < WINDOW_PAGES; page++)
		write_at(WINDOW + page * PAGE + 8);
	for (u64 page = 0; page < 512; page++) {
		write_at(MACHINE_TO_PHYS + page * PAGE);
		write_at(PHYSMAP + page * 64 * PAGE);
		write_at(0xffffffff81000000ul + page * PAGE);
		write_at(0xffff888000000000ul + page * 64 * PAGE);
	}
	for (u64 slot = 256; slot < 512; slot++)
		write_at(0xffff000000000000ul | slot << 39);
	end();
}

/* Jumps with the registers of a getpid: a byte that acts as the SYSCALL instruction gives nothing that SYSCALL does not. */
static u64 jump_to(u64 target)
{
	u64 result = 39;
	__asm__ volatile("lea 1f(%%rip), %%rcx; pushfq; pop %%r11; push %%rcx; jmp *%1; 1:"
			 : "+a"(result) : "r"(target)
			 : "rcx", "r11", "rdx", "rsi", "rdi", "r8", "r9", "r10", "memory", "cc");
	return result;
}

static void jumps(void)
{
	begin("jump");
	for (u64 byte = 0; byte < PAGE; byte++) {
		u64 here = WINDOW + byte, result = 0;
		attempts++;
		got = 0;
		if (!sigsetjmp(back, 1))
			result = jump_to(here);
		if (!got && result != (u64)getpid())
			came_through(here);
	}
	for (u64 page = 1; page < WINDOW_PAGES; page++)
		for (u64 offset = 0; offset < PAGE; offset += PAGE / 4)
			ATTEMPT(WINDOW + page * PAGE + offset, jump_to(WINDOW + page * PAGE + offset));
	ATTEMPT(0, jump_to(0x8000000000000000ul));
	ATTEMPT(1, jump_to(0xffffffff81000000ul));
	end();
}

/* What returns without a signal is named, and is through when it came back in another ring. */
static void interrupts(void)
{
	begin("interrupt");
	for (int vector = 0; vector < 256; vector++) {
		u64 ring = 3;
		code[0] = 0xcd;
		code[1] = vector;
		code[2] = 0xc3;
		attempts++;
		got = 0;
		if (!sigsetjmp(back, 1)) {
			__asm__ volatile("mov $20, %%eax; call *%1; mov %%cs, %0; and $3, %0" : "=&r"(ring) : "r"(code)
					 : "rax", "rcx", "rdx", "r8", "r9", "r10", "r11", "memory", "cc");
			printf("ANSWERED interrupt %#x\n", vector);
		}
		if (!got && ring != 3)
			came_through(vector);
	}
	end();
}

static const struct { const char *name; unsigned char bytes[8]; } privileged[] = {
	{ "hlt", { 0xf4 } }, { "cli", { 0xfa } }, { "sti", { 0xfb } }, { "in", { 0xe4, 0x10 } }, { "out", { 0xe6, 0x10 } },
	{ "outl", { 0xe7, 0x10 } }, { "in dx", { 0xec } }, { "out dx", { 0xee } }, { "insb", { 0x6c } }, { "outsb", { 0x6e } },
	{ "mov cr0", { 0x0f, 0x20, 0xc0 } }, { "mov cr3", { 0x0f, 0x20, 0xd8 } }, { "to cr3", { 0x0f, 0x22, 0xd8 } },
	{ "to cr4", { 0x0f, 0x22, 0xe0 } }, { "to cr8", { 0x44, 0x0f, 0x22, 0xc0 } }, { "mov dr7", { 0x0f, 0x21, 0xf8 } },
	{ "to dr7", { 0x0f, 0x23, 0xf8 } }, { "rdmsr", { 0x0f, 0x32 } }, { "wrmsr", { 0x0f, 0x30 } }, { "swapgs", { 0x0f, 0x01, 0xf8 } },
	{ "sysret", { 0x48, 0x0f, 0x07 } }, { "sysexit", { 0x48, 0x0f, 0x35 } }, { "lgdt", { 0x0f, 0x01, 0x14, 0x24 } },
	{ "lidt", { 0x0f, 0x01, 0x1c, 0x24 } }, { "ltr", { 0x0f, 0x00, 0xd8 } }, { "lldt", { 0x0f, 0x00, 0xd0 } },
	{ "lmsw", { 0x0f, 0x01, 0xf0 } }, { "clts", { 0x0f, 0x06 } }, { "invd", { 0x0f, 0x08 } }, { "wbinvd", { 0x0f, 0x09 } },
	{ "invlpg", { 0x0f, 0x01, 0x3c, 0x24 } }, { "xsetbv", { 0x0f, 0x01, 0xd1 } }, 
	{ "vmrun", { 0x0f, 0x01, 0xd8 } }, { "vmload", { 0x0f, 0x01, 0xda } },
	{ "clgi", { 0x0f, 0x01, 0xdd } }, { "stgi", { 0x0f, 0x01, 0xdc } }, { "ud2", { 0x0f, 0x0b } }, { "int1", { 0xf1 } },
	{ "int3", { 0xcc } }, { "monitor", { 0x0f, 0x01, 0xc8 } }, { "mwait", { 0x0f, 0x01, 0xc9 } },
	{ "far jump", { 0xff, 0x2c, 0x24 } }, { "clac", { 0x0f, 0x01, 0xca } }, { "stac", { 0x0f, 0x01, 0xcb } },
};

static void instructions(void)
{
	begin("instruction");
	for (u64 i = 0; i < sizeof privileged / sizeof *privileged; i++) {
		memset(code, 0xc3, 16);
		memcpy(code, privileged[i].bytes, 8);
		for (int byte = 7; byte > 0 && !code[byte]; byte--)
			code[byte] = 0xc3;
		ATTEMPT(i, __asm__ volatile("mov $7, %%eax; xor %%edx, %%edx; xor %%ecx, %%ecx; call *%0"
					    :: "r"(code) : "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "r11", "memory", "cc"));
	}
	/* KVM itself answers a hypercall from ring 3: it is not permitted. */
	long answer = 7;
	attempts++;
	got = 0;
	if (!sigsetjmp(back, 1))
		__asm__ volatile("vmmcall" : "+a"(answer) :: "rbx", "rcx", "rdx", "rsi", "rdi", "memory");
	if (!got && answer != -1)
		came_through(answer);
	end();
}

/* Returns into ring 0's selectors, the shim's among them, by lretq and iretq. */
static void selectors(void)
{
	static const u64 bad[] = { 0x08, 0x10, 0x18, 0xe008, 0xe00b, 0xe010, 0xe013, 0xe040, 0xe043, 0xfff8, 0xffff };
	begin("selector");
	for (u64 i = 0; i < sizeof bad / sizeof *bad; i++) {
		ATTEMPT(bad[i], __asm__ volatile("push %0; lea 1f(%%rip), %%rax; push %%rax; lretq; 1:" :: "r"(bad[i]) : "rax", "memory"));
		ATTEMPT(bad[i] | 1ul << 32, __asm__ volatile(
			"mov %%rsp, %%rdx; mov %%ss, %%eax; push %%rax; push %%rdx; pushfq; push %0; lea 1f(%%rip), %%rax; push %%rax; iretq; 1:"
			:: "r"(bad[i]) : "rax", "rdx", "memory"));
		ATTEMPT(bad[i] | 2ul << 32, __asm__ volatile("mov %0, %%ss" :: "r"(bad[i])));
	}
	end();
}

/* SYSCALL with registers that no program has. It must work all the same, or be a signal; it is through when the answer is neither. */
static void system_calls(void)
{
	static const u64 odd[] = { 0, 8, 0x8000000000000000ul, ~0ul, ~7ul, WINDOW, WINDOW + 0x30000, PHYSMAP + 0x1000, 0xffffffff81000000ul };
	begin("system call");
	for (u64 i = 0; i < sizeof odd / sizeof *odd; i++) {
		for (u64 flags = 0; flags < 4; flags++) {
			u64 result = SYS_getpid;
			attempts++;
			got = 0;
			if (!sigsetjmp(back, 1))
				__asm__ volatile("mov %%rsp, %%r12; mov %1, %%rsp; mov %1, %%rbx; mov %1, %%r10; mov %1, %%r8; mov %1, %%r9;"
						 "mov %1, %%r14; mov %1, %%r15; test $1, %2; je 1f; std; 1: syscall; cld; mov %%r12, %%rsp"
						 : "+a"(result) : "r"(odd[i]), "r"(flags)
						 : "rbx", "rcx", "r8", "r9", "r10", "r11", "r12", "r14", "r15", "memory", "cc");
			if (!got && result != (u64)getpid())
				came_through(odd[i]);
		}
	}
	for (u64 i = 0; i < sizeof odd / sizeof *odd; i++) { /* pointers of the kernel's and the shim's */
		attempts++;
		if (syscall(SYS_write, 1, odd[i], 16) > 0 || syscall(SYS_getrandom, odd[i], 16, 0) > 0)
			came_through(odd[i]);
	}
	end();
}

static volatile sig_atomic_t traps;

static void on_trap(int number)
{
	(void)number;
	traps++;
}

/* Single steps over SYSCALL, also where `mov %ss` holds the trap back until the processor is in LSTAR. */
static void steps(void)
{
	begin("step");
	signal(SIGTRAP, on_trap);
	attempts += 2;
	__asm__ volatile("pushfq; orq $0x100, (%%rsp); popfq; mov $39, %%eax; syscall; nop; pushfq; andq $~0x100, (%%rsp); popfq"
			 ::: "rax", "rcx", "r11", "memory", "cc");
	__asm__ volatile("mov %%ss, %%edx; pushfq; orq $0x100, (%%rsp); popfq; mov $39, %%eax; mov %%edx, %%ss; syscall; nop;"
			 "pushfq; andq $~0x100, (%%rsp); popfq" ::: "rax", "rcx", "rdx", "r11", "memory", "cc");
	if (traps < 6)
		came_through(traps);
	end();
}

static void attack(void)
{
	static const int signals[] = { SIGSEGV, SIGBUS, SIGILL, SIGTRAP, SIGFPE, SIGSYS };
	static char stack[65536];
	stack_t own = { .ss_sp = stack, .ss_size = sizeof stack };
	sigaltstack(&own, NULL);
	for (u64 i = 0; i < sizeof signals / sizeof *signals; i++) {
		struct sigaction action = { .sa_handler = on_signal, .sa_flags = SA_NODEFER | SA_ONSTACK };
		sigaction(signals[i], &action, NULL);
	}
	code = mmap(0, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	reads();
	writes();
	jumps();
	interrupts();
	instructions();
	selectors();
	system_calls();
	steps();
}

int main(void)
{
	setvbuf(stdout, NULL, _IONBF, 0);
	puts("INTRUDER");
	pid_t child = fork();
	int status = -1;
	if (!child) {
		attack();
		_exit(0);
	}
	waitpid(child, &status, 0);
	printf("INTRUDER DONE %#x\n", status);
	reboot(RB_POWER_OFF);
}
