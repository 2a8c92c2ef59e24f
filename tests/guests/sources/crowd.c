/* An init for guests with several vcpus: threads on each of them, memory that changes under their eyes, processors that go and come.
 * It says what went wrong, then that it is done, then powers off. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/membarrier.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define CPUS_MAX 8
#define PHASE_MS 700
#define FILE_PAGES 64
#define CHILDREN 8
#define OFFLINE_ROUNDS 3
#define SET_TIMEOUT_MS 60000

static int cpus;
static atomic_int over;

static void check(int good, const char *what)
{
	if (!good)
		printf("BAD %s\n", what);
}

static long now_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000l + now.tv_nsec;
}

static void pin(int cpu)
{
	cpu_set_t set;
	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	/* It may just be offline. */
	sched_setaffinity(0, sizeof set, &set);
}

/* Runs `work` on every cpu at once, and `main_work` here, until that returns. */
static void together(void *(*work)(void *), void (*main_work)(void))
{
	pthread_t threads[CPUS_MAX];

	over = 0;
	for (long cpu = 0; cpu < cpus; cpu++)
		check(!pthread_create(&threads[cpu], 0, work, (void *)cpu), "a thread");
	main_work();
	over = 1;
	for (int cpu = 0; cpu < cpus; cpu++)
		pthread_join(threads[cpu], 0);
}

static void wait_phase(void) { usleep(PHASE_MS * 1000); }

static int phase_goes_on(long begun) { return now_ns() - begun < PHASE_MS * 1000000l; }

/* A page that mprotect made read-only is not written any more when the call has returned. */
static _Atomic unsigned long *guarded;
static atomic_int read_only;

static void on_fault(int signal)
{
	(void)signal;
	while (read_only && !over)
		sched_yield();
}

static void *write_guarded(void *cpu)
{
	pin((long)cpu);
	while (!over)
		for (int i = 0; i < 1000; i++)
			atomic_fetch_add_explicit(guarded, 1, memory_order_relaxed);
	return 0;
}

static void protect_and_look(void)
{
	long begun = now_ns(), rounds = 0, wrong = 0;

	while (phase_goes_on(begun)) {
		read_only = 1;
		mprotect((void *)guarded, 4096, PROT_READ);
		unsigned long seen = *guarded;
		for (volatile int i = 0; i < 20000; i++)
			;
		wrong += *guarded != seen;
		mprotect((void *)guarded, 4096, PROT_READ | PROT_WRITE);
		read_only = 0;
		rounds++;
	}
	check(!wrong, "a write through an old translation");
	printf("protections %ld\n", rounds);
}

static void protection(void)
{
	signal(SIGSEGV, on_fault);
	guarded = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	together(write_guarded, protect_and_look);
	signal(SIGSEGV, SIG_DFL);
}

/* A page that was mapped over another is what all threads see from then on. */
static _Atomic unsigned long *window;
static atomic_ulong mapped;
static atomic_long stale;
static int file;

static void *read_window(void *cpu)
{
	pin((long)cpu);
	while (!over)
		for (int i = 0; i < 1000; i++) {
			unsigned long least = mapped;
			if (*window < least)
				stale++;
		}
	return 0;
}

static void map_over(void)
{
	long begun = now_ns();
	unsigned long value = 1;

	for (; phase_goes_on(begun); value++) {
		/* The page that comes next is not mapped now. */
		pwrite(file, &value, sizeof value, value % FILE_PAGES * 4096);
		if (mmap((void *)window, 4096, PROT_READ, MAP_SHARED | MAP_FIXED, file, value % FILE_PAGES * 4096) == MAP_FAILED)
			check(0, "mmap");
		mapped = value;
	}
	printf("mappings %lu\n", value);
}

static void mappings(void)
{
	file = memfd_create("pages", 0);
	check(!ftruncate(file, FILE_PAGES * 4096), "ftruncate");
	window = mmap(0, 4096, PROT_READ, MAP_SHARED, file, 0);
	together(read_window, map_over);
	check(!stale, "a read through an old translation");
}

/* Threads map, fill, check and unmap memory of their own: page tables of one address space change on all vcpus at once. */
static void *map_and_unmap(void *cpu)
{
	unsigned long seed = (long)cpu + 1, rounds = 0;

	pin((long)cpu);
	for (; !over; rounds++) {
		unsigned long pages = 1 + (seed = seed * 6364136223846793005ul + 1) / 7 % 64;
		unsigned long *memory = mmap(0, pages * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		for (unsigned long i = 0; i < pages; i++) {
			check(!memory[i * 512], "a new page that is not empty");
			memory[i * 512] = seed + i;
		}
		mprotect(memory, pages * 4096, PROT_READ);
		for (unsigned long i = 0; i < pages; i++)
			check(memory[i * 512] == seed + i, "a page that another thread has written");
		madvise(memory, pages * 4096, MADV_DONTNEED);
		check(!memory[0], "a page that was given back");
		munmap(memory, pages * 4096);
	}
	return (void *)rounds;
}

static void own_memory(void) { together(map_and_unmap, wait_phase); }

/* One lock for all: futexes, wake-ups on other vcpus, and in the kernel its paravirtual spin locks. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t turn = PTHREAD_COND_INITIALIZER;
static long counter, holder;
static atomic_long counted;

static void *count(void *cpu)
{
	pin((long)cpu);
	for (long i = 0; !over; i++) {
		pthread_mutex_lock(&lock);
		counter++;
		if (i % 8 == 0) {
			holder = (holder + 1) % cpus;
			pthread_cond_broadcast(&turn);
		}
		pthread_mutex_unlock(&lock);
		counted++;
		if (i % 64 == 0)
			usleep(1);
	}
	return 0;
}

static void locks(void)
{
	together(count, wait_phase);
	check(counter == counted, "a count under a lock");
}

/* Interrupts from vcpu to vcpu, and processes besides. */
static void *interrupt(void *cpu)
{
	pin((long)cpu);
	for (long i = 0; !over; i++) {
		check(!syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0), "membarrier");
		/* Moves, then comes back. */
		pin((i + (long)cpu) % cpus);
	}
	return 0;
}

static void fork_meanwhile(void)
{
	long begun = now_ns();

	do {
		pid_t children[CHILDREN];
		int status, good = 0;
		for (int i = 0; i < CHILDREN; i++)
			if (!(children[i] = fork())) {
				pin(i % cpus);
				_exit(i);
			}
		for (int i = 0; i < CHILDREN; i++)
			good += waitpid(children[i], &status, 0) == children[i] && WIFEXITED(status) && WEXITSTATUS(status) == i;
		check(good == CHILDREN, "a child's exit code");
	} while (phase_goes_on(begun));
}

static void interrupts(void)
{
	check(!syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0), "registration for membarrier");
	together(interrupt, fork_meanwhile);
}

/* Time does not go back from one vcpu to the next. */
static void *look_at_clock(void *cpu)
{
	long last = 0;

	for (long i = (long)cpu; !over; i++) {
		if (i % 16 == 0)
			pin(i / 16 % cpus);
		long now = now_ns();
		check(now >= last, "a clock that goes back");
		last = now;
	}
	return 0;
}

static void clocks(void) { together(look_at_clock, wait_phase); }

static int cpu_is_online(int cpu)
{
	char path[64], digit = 0;
	snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/online", cpu);
	FILE *file = fopen(path, "r");
	/* The first one cannot go, and has no such file; nor has one that the toolstack took away. */
	if (!file)
		return cpu == 0;
	if (fread(&digit, 1, 1, file) != 1)
		digit = 0;
	fclose(file);
	return digit == '1';
}

static int set_online(int cpu, int online)
{
	char path[64];
	snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/online", cpu);
	FILE *file = fopen(path, "w");
	if (!file)
		return 0;
	fprintf(file, "%d", online);
	return !fclose(file);
}

static int online(void)
{
	int count = 0;
	for (int cpu = 0; cpu < cpus; cpu++)
		count += cpu_is_online(cpu);
	return count;
}

static void off_and_on(void)
{
	for (int round = 0; round < OFFLINE_ROUNDS; round++)
		for (int cpu = 1; cpu < cpus; cpu++) {
			check(set_online(cpu, 0) && !cpu_is_online(cpu), "a cpu that goes offline");
			check(set_online(cpu, 1) && cpu_is_online(cpu), "a cpu that comes online");
		}
}

static void hotplug(void)
{
	together(map_and_unmap, off_and_on);
	check(online() == cpus, "all cpus after they were offline");
}

/* The test asks for another number of vcpus from outside when it reads this line. A cpu that is offered again waits for its guest. */
static void wait_for_set(int wanted)
{
	printf("SET %d\n", wanted);
	for (int waited = 0; waited < SET_TIMEOUT_MS && online() != wanted; waited += 10) {
		usleep(10000);
		for (int cpu = 1; cpu < wanted; cpu++)
			if (!cpu_is_online(cpu))
				set_online(cpu, 1);
	}
	check(online() == wanted, "the number of cpus that was asked for");
}

static int processors(void)
{
	char line[256];
	int count = 0;
	FILE *file = fopen("/proc/cpuinfo", "r");
	while (file && fgets(line, sizeof line, file))
		count += !strncmp(line, "processor", 9);
	return count;
}

static void phase(const char *name, void (*run)(void))
{
	long begun = now_ns();
	printf("PHASE %s\n", name);
	run();
	printf("%s took %ld ms\n", name, (now_ns() - begun) / 1000000);
}

static void all(const char *what)
{
	phase("protection", protection);
	phase("mappings", mappings);
	phase("own memory", own_memory);
	phase("locks", locks);
	phase("interrupts", interrupts);
	phase("clocks", clocks);
	phase("hotplug", hotplug);
	if (strcmp(what, "set"))
		return;
	wait_for_set(2);
	wait_for_set(cpus);
}

int main(int argc, char **argv)
{
	setvbuf(stdout, 0, _IONBF, 0);
	mkdir("/proc", 0755);
	mkdir("/sys", 0755);
	mount("proc", "/proc", "proc", 0, 0);
	mount("sysfs", "/sys", "sysfs", 0, 0);
	cpus = processors();
	printf("CROWD %d processors\n", cpus);
	/* Not as process 1, which no signal reaches that it has no handler for. */
	pid_t child = fork();
	int status = 0;
	if (!child) {
		all(argc > 1 ? argv[1] : "");
		_exit(0);
	}
	waitpid(child, &status, 0);
	check(WIFEXITED(status) && !WEXITSTATUS(status), "the exercise as a whole");
	puts("CROWD DONE");
	reboot(RB_POWER_OFF);
}
