/* Runs a fuzz target over files named on the command line (or in folders), so
 * that any compiler can replay the corpora: `make fuzz-smoke`.  Every prefix
 * of a short input is tried too, since a cut is what a decoder meets most. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv) __attribute__((weak));

enum { PREFIXES_MAX = 512, INPUT_MAX = 16 << 20 };

static unsigned long n_inputs;

static int run(const uint8_t *bytes, size_t size)
{
	/* An exact allocation, so that a read past the end is seen. */
	uint8_t *exact = malloc(size ? size : 1);

	if (!exact)
		return -1;
	if (size)
		memcpy(exact, bytes, size);
	LLVMFuzzerTestOneInput(exact, size);
	free(exact);
	n_inputs++;
	return 0;
}

static int replay_file(const char *path, size_t size)
{
	FILE *file = fopen(path, "rb");
	uint8_t *bytes = malloc(size + 1);
	int rv = -1;

	if (file && bytes && fread(bytes, 1, size, file) == size) {
		rv = run(bytes, size);
		for (size_t cut = 0; rv == 0 && cut < size; cut++) {
			if (cut >= PREFIXES_MAX)
				break;
			rv = run(bytes, cut);
		}
	}
	if (rv != 0)
		perror(path);
	free(bytes);
	if (file)
		fclose(file);
	return rv;
}

static int replay(const char *path);

static int replay_folder(const char *path)
{
	struct dirent **names;
	int n = scandir(path, &names, NULL, alphasort);
	int rv = n < 0 ? -1 : 0;

	for (int i = 0; i < n; i++) {
		char inner[4096];

		if (rv == 0 && names[i]->d_name[0] != '.') {
			snprintf(inner, sizeof(inner), "%s/%s", path,
				 names[i]->d_name);
			rv = replay(inner);
		}
		free(names[i]);
	}
	if (n >= 0)
		free(names);
	else
		perror(path);
	return rv;
}

static int replay(const char *path)
{
	struct stat st;

	if (stat(path, &st) != 0) {
		perror(path);
		return -1;
	}
	if (S_ISDIR(st.st_mode))
		return replay_folder(path);
	if (st.st_size > INPUT_MAX) {
		fprintf(stderr, "%s: larger than %d bytes\n", path, INPUT_MAX);
		return -1;
	}
	return replay_file(path, (size_t)st.st_size);
}

int main(int argc, char **argv)
{
	if (LLVMFuzzerInitialize)
		LLVMFuzzerInitialize(&argc, &argv);
	if (run((const uint8_t *)"", 0) != 0)
		return 1;
	for (int i = 1; i < argc; i++)
		if (replay(argv[i]) != 0)
			return 1;
	printf("%lu inputs\n", n_inputs);
	return 0;
}
