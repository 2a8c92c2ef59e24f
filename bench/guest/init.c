/* The first program of the bench's guest: measures what the kernel below it costs, prints one line for each repetition
 * (`name value unit`) to the console, powers off. Linked statically, so that the same file is init here and a program of the
 * host there. The kernel hands it what follows `--` on its command line:
 *   boot    the first line, nothing else
 *   all     every measurement
 *   getppid system calls for some seconds
 *   sha256  only the processor; also run on the host, where it does not power off
 *   exit    what fork+exec+wait executes
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/reboot.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "sha256.h"

enum { REPETITIONS = 5, REPETITIONS_LONG = 30, BATCH = 50, BATCHES = 200, SYSCALLS = 10000, FORKS = 100, EXECS = 50, PAGES = 2048, ROUNDS = 1000, PAGE = 4096 };
/* 100 MB, in chunks that stay in the cache. */
enum { CHUNK_BYTES = 40000, CHUNKS = 100000000 / CHUNK_BYTES };

static double now_us(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}

static void give_up(const char *what)
{
	perror(what);
	if (getpid() == 1)
		reboot(RB_POWER_OFF);
	exit(1);
}

static double getppid_us(void)
{
	double begun = now_us();
	for (int i = 0; i < SYSCALLS; i++)
		syscall(SYS_getppid);
	return (now_us() - begun) / SYSCALLS;
}

/* The middle one of short batches: one in which the host ran something else says nothing of a call. */
static int by_value(const void *a, const void *b)
{
	double left = *(const double *)a, right = *(const double *)b;
	return (left > right) - (left < right);
}

static double getppid_undisturbed_us(void)
{
	static double took[BATCHES];
	for (int i = 0; i < BATCHES; i++) {
		double begun = now_us();
		for (int call = 0; call < BATCH; call++)
			syscall(SYS_getppid);
		took[i] = (now_us() - begun) / BATCH;
	}
	qsort(took, BATCHES, sizeof *took, by_value);
	return took[BATCHES / 2];
}

static double fork_us(void)
{
	double begun = now_us();
	for (int i = 0; i < FORKS; i++) {
		pid_t child = fork();
		if (child == 0)
			_exit(0);
		if (child < 0 || waitpid(child, NULL, 0) != child)
			give_up("fork");
	}
	return (now_us() - begun) / FORKS;
}

static double exec_us(void)
{
	double begun = now_us();
	for (int i = 0; i < EXECS; i++) {
		int status = -1;
		pid_t child = fork();
		if (child == 0) {
			execl("/init", "/init", "exit", (char *)NULL);
			_exit(1);
		}
		if (child < 0 || waitpid(child, &status, 0) != child || status != 0)
			give_up("exec");
	}
	return (now_us() - begun) / EXECS;
}

static double fault_us(void)
{
	char *area = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (area == MAP_FAILED)
		give_up("mmap");
	/* A huge page would be one fault for 512 pages. */
	madvise(area, PAGES * PAGE, MADV_NOHUGEPAGE);
	double begun = now_us();
	for (int i = 0; i < PAGES; i++)
		((volatile char *)area)[i * PAGE] = 1;
	double took = (now_us() - begun) / PAGES;
	munmap(area, PAGES * PAGE);
	return took;
}

static double pipe_us(void)
{
	int there[2], back[2];
	char byte = 0;
	if (pipe(there) || pipe(back))
		give_up("pipe");
	pid_t child = fork();
	if (child == 0) {
		close(there[1]);
		while (read(there[0], &byte, 1) == 1 && write(back[1], &byte, 1) == 1)
			;
		_exit(0);
	}
	double begun = now_us();
	for (int i = 0; i < ROUNDS; i++)
		if (write(there[1], &byte, 1) != 1 || read(back[0], &byte, 1) != 1)
			give_up("pipe");
	double took = (now_us() - begun) / ROUNDS;
	close(there[0]), close(there[1]), close(back[0]), close(back[1]);
	waitpid(child, NULL, 0);
	return took;
}

static double sha256_us(void)
{
	static unsigned char chunk[CHUNK_BYTES];
	uint32_t digest[8];
	for (int i = 0; i < CHUNK_BYTES; i++)
		chunk[i] = (unsigned char)i;
	double begun = now_us();
	sha256_repeated(chunk, CHUNK_BYTES, CHUNKS, digest);
	double took = now_us() - begun;
	/* Whoever measures compares it, so the work was done and done right. */
	printf("digest %08x%08x hex\n", digest[0], digest[1]);
	return took;
}

static void repeat(const char *name, double (*measure)(void), int times)
{
	for (int i = 0; i < times; i++)
		printf("%s %.3f us\n", name, measure());
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "all";
	if (!strcmp(what, "exit"))
		return 0;
	setvbuf(stdout, NULL, _IOLBF, 0);
	printf("init up\n");
	if (!strcmp(what, "all")) {
		double begun = now_us();
		repeat("getppid", getppid_us, REPETITIONS);
		repeat("fork", fork_us, REPETITIONS);
		repeat("exec", exec_us, REPETITIONS);
		repeat("fault", fault_us, REPETITIONS);
		repeat("pipe", pipe_us, REPETITIONS);
		repeat("sha256", sha256_us, 2);
		/* Compared with the host's clock: a guest whose clock is slow would look fast. */
		printf("elapsed %.3f us\n", now_us() - begun);
	} else if (!strcmp(what, "getppid")) {
		repeat("getppid", getppid_undisturbed_us, REPETITIONS_LONG);
	} else if (!strcmp(what, "sha256")) {
		repeat("sha256", sha256_us, 2);
	} else if (strcmp(what, "boot")) {
		printf("init: what is %s\n", what);
	}
	printf("init done\n");
	if (getpid() == 1) {
		fflush(stdout);
		sync();
		reboot(RB_POWER_OFF);
		for (;;)
			pause();
	}
	return 0;
}
