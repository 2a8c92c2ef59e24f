/* An ordinary init: what every program does, many times. It says what went wrong, then that it is done, then powers off. */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/reboot.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHILDREN 20
#define PAGES 2048
#define ROUNDS 200
#define EXIT_FORKED 5
#define EXIT_EXECUTED 7
#define STEPS_MIN 20

static void check(int good, const char *what)
{
	if (!good)
		printf("BAD %s\n", what);
}

static int status_of(pid_t child)
{
	int status = 0;
	waitpid(child, &status, 0);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void children(void)
{
	for (int i = 0; i < CHILDREN; i++) {
		pid_t child = fork();
		if (!child) {
			if (i & 1)
				_exit(EXIT_FORKED);
			execl("/init", "init", "child", NULL);
			_exit(1);
		}
		check(status_of(child) == (i & 1 ? EXIT_FORKED : EXIT_EXECUTED), "a child's exit code");
	}
}

static void memory(void)
{
	char *pages = mmap(0, PAGES * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	for (int i = 0; i < PAGES; i++)
		pages[i * 4096] = i;
	pid_t child = fork();
	if (!child) {
		for (int i = 0; i < PAGES; i += 2)
			pages[i * 4096] = ~i;
		_exit(pages[4096 * 3] == 3 ? 0 : 1);
	}
	check(status_of(child) == 0, "a page after fork");
	for (int i = 0; i < PAGES; i++)
		check(pages[i * 4096] == (char)i, "a page that the child wrote");
	munmap(pages, PAGES * 4096);
}

/* A page that becomes read-only must fault at once: a translation that the shim forgot to flush would not. */
static volatile sig_atomic_t faults;
static char *guarded;

static void on_fault(int signal)
{
	(void)signal;
	faults++;
	mprotect(guarded, 4096, PROT_READ | PROT_WRITE);
}

static void protection(void)
{
	signal(SIGSEGV, on_fault);
	guarded = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	for (int i = 0; i < ROUNDS; i++) {
		guarded[0] = i;
		mprotect(guarded, 4096, PROT_READ);
		*(volatile char *)guarded = i + 1;
	}
	check(faults == ROUNDS, "a write to a read-only page");
	signal(SIGSEGV, SIG_DFL);
}

static void pipes(void)
{
	int there[2], back[2];
	check(!pipe(there) && !pipe(back), "pipe");
	pid_t child = fork();
	if (!child) {
		char byte;
		for (int i = 0; i < ROUNDS; i++)
			if (read(there[0], &byte, 1) != 1 || write(back[1], &byte, 1) != 1)
				_exit(1);
		_exit(0);
	}
	for (int i = 0; i < ROUNDS; i++) {
		char out = i, in = ~i;
		check(write(there[1], &out, 1) == 1 && read(back[0], &in, 1) == 1 && in == out, "a byte through two pipes");
	}
	check(status_of(child) == 0, "the pipe's other end");
}

static void single_steps(void)
{
	pid_t child = fork();
	if (!child) {
		ptrace(PTRACE_TRACEME, 0, 0, 0);
		raise(SIGSTOP);
		for (volatile int i = 0; i < 10; i++)
			getppid();
		_exit(EXIT_FORKED);
	}
	int status = 0, steps = 0;
	waitpid(child, &status, 0);
	while (WIFSTOPPED(status) && steps < 5000) {
		steps++;
		ptrace(PTRACE_SINGLESTEP, child, 0, 0);
		waitpid(child, &status, 0);
	}
	check(steps > STEPS_MIN && WIFEXITED(status) && WEXITSTATUS(status) == EXIT_FORKED, "a program in single steps");
}

static void program_of_32_bits(void)
{
	pid_t child = fork();
	if (!child) {
		execl("/hello32", "hello32", NULL);
		_exit(1);
	}
	check(status_of(child) == 0, "a program of 32 bits");
}

int main(int count, char **arguments)
{
	if (count > 1 && !strcmp(arguments[1], "child"))
		return EXIT_EXECUTED;
	setvbuf(stdout, NULL, _IONBF, 0);
	puts("EXERCISE");
	/* Not as process 1: the kernel logs each of its faults. */
	pid_t child = fork();
	if (!child) {
		children();
		memory();
		protection();
		pipes();
		single_steps();
		program_of_32_bits();
		usleep(1000);
		_exit(0);
	}
	check(status_of(child) == 0, "the exercise as a whole");
	puts("EXERCISE DONE");
	reboot(RB_POWER_OFF);
}
