/* What one system call costs, and how long a command takes: compiled in the guest of `bench introspect`, one line (`name value unit`) a
 * repetition.
 *   calls getppid COUNT REPETITIONS
 *   calls openat COUNT REPETITIONS     of a path that is there; the closes are not in the time
 *   calls time NAME COMMAND...
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* Calls between two looks at the clock: about as long as a host's scheduler lets a processor alone. Of all batches the middle one counts: those
 * in which the host ran something else say nothing of a call. */
enum { BATCH = 50, BATCHES_MAX = 4096 };

static const char path[] = "/etc/hostname";

static double now_us(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}

static double getppid_us(void)
{
	double begun = now_us();
	for (int i = 0; i < BATCH; i++)
		syscall(SYS_getppid);
	return now_us() - begun;
}

static double openat_us(void)
{
	int first = -1, last = -1;
	double begun = now_us();
	for (int i = 0; i < BATCH; i++) {
		last = syscall(SYS_openat, AT_FDCWD, path, O_RDONLY, 0);
		first = first < 0 ? last : first;
	}
	double took = now_us() - begun;
	if (first < 0 || last != first + BATCH - 1)
		exit(1);
	syscall(SYS_close_range, first, last, 0);
	return took;
}

static int by_value(const void *a, const void *b)
{
	double left = *(const double *)a, right = *(const double *)b;
	return (left > right) - (left < right);
}

static double median_us(double (*batch_us)(void), long calls)
{
	static double took[BATCHES_MAX];
	long batches = calls / BATCH < BATCHES_MAX ? calls / BATCH : BATCHES_MAX;
	for (long i = 0; i < batches; i++)
		took[i] = batch_us();
	qsort(took, batches, sizeof *took, by_value);
	return took[batches / 2] / BATCH;
}

static int time_command(const char *name, char **command)
{
	int status = -1;
	double begun = now_us();
	pid_t child = fork();
	if (child == 0) {
		execvp(command[0], command);
		_exit(127);
	}
	if (child < 0 || waitpid(child, &status, 0) != child || status != 0)
		return 1;
	printf("%s %.6f s\n", name, (now_us() - begun) / 1e6);
	return 0;
}

int main(int argc, char **argv)
{
	if (argc >= 4 && !strcmp(argv[1], "time"))
		return time_command(argv[2], argv + 3);
	if (argc != 4)
		return 2;
	int opens = !strcmp(argv[1], "openat");
	for (long left = atol(argv[3]); left > 0; left--)
		printf("%s %.4f us\n", argv[1], median_us(opens ? openat_us : getppid_us, atol(argv[2])));
	return 0;
}
