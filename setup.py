"""Package metadata comes from `settings.ini`, the one place where it is written."""
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
settings = ConfigParser(delimiters=[' ='], inline_comment_prefixes=None)
settings.optionxform = str
settings.read(here/'settings.ini', encoding='utf-8')
defaults = settings.defaults()
own = lambda section: {k: v for k, v in settings[section].items() if k not in defaults}

setup(
    version=defaults['version'], description=defaults['description'], author=defaults['author'],
    license=defaults['license'], keywords=defaults['keywords'].split(), python_requires='>=' + defaults['min_python'],
    long_description=(here/'README.md').read_text(encoding='utf-8'), long_description_content_type='text/markdown',
    packages=find_packages(include=['sft_nb', 'sft_nb.*']), include_package_data=False,
    package_data={'sft_nb': ['py.typed', '*.yaml', 'suites/*.yaml', 'report/static/*']},
    install_requires=[k.strip() for k in own('requirements')],
    extras_require={k: v.split() for k, v in own('extras').items()},
    entry_points={'console_scripts': [f'{k} = {v}' for k, v in own('scripts').items()],
                  'nbdev': ['sft_nb = sft_nb._modidx:d']},
    classifiers=['Programming Language :: Python :: 3', 'Intended Audience :: Science/Research',
                 'Topic :: Scientific/Engineering :: Artificial Intelligence'],
)
