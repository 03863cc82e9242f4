"""Students from a corpus: `students.train` trains any kind by a plan. Only this package imports trainers."""
